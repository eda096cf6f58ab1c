"""A synthetic served Mixture-of-Experts model: the expert loads of a drifting mixture of domains.

Every domain of the traffic (code, law, chat, …) has its own popularity of the experts of a layer:
log-normal with a heavier upper tail, correlated within expert groups and, in part, across domains.
Traffic is a mixture of domains whose weights wander from record to record and burst; single
experts drift on their own; now and then a share of every domain's popularity is replaced, and once
nearly all of it, the regime change. Tokens are then sampled.

Covered: loads per record, layer and expert. Not covered: which tokens meet in which experts,
correlations between layers beyond those of the shared mixture, and the calibration itself
(`eplb.workload_report`).

Reproducibility: all random numbers are raw PCG64 words, which numpy promises to keep, turned into
normal ones here, and no draw depends on an earlier result. The same model, seed, numpy and kind of
processor give the same bytes; elsewhere exp, log and cos may differ in the last bit, which could
at most move single counts by one token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from eplb.errors import UserError
from eplb.trace import Trace, TraceHeader


@dataclass(frozen=True)
class WorkloadModel:
    """Shape and temper of a served model; popularity is in log units unless said otherwise.

    model, layers, experts, num_groups, top_k: the model; one group means no groups
    windows, records_per_window, steps_per_record: length and resolution of the trace
    tokens_per_record: mean tokens that one record sums up, per layer
    skew: standard deviation of log popularity of a domain's experts
    tail: extra steepness of the upper tail, 0 for plain log-normal
    group_skew: standard deviation of what the experts of a group share
    layer_spread: relative standard deviation of the skew over layers
    domains, specialisation: domains in the mixture, and the share of their log popularity
        (as variance) that is their own
    drift: standard deviation per window of the log popularity of a single expert
    volatility_spread: how unevenly the experts drift (log-normal)
    domain_drift: standard deviation per window of the log weight of a domain
    burstiness: standard deviation, per record, of the log weight of a domain
    jitter: the same of a single expert
    regime_window: first window of the new regime, None for none
    regime_shift: share of log popularity (as variance) that the regime change replaces
    shifts: further such changes, (window, share)
    """

    model: str = "deepseek-ai/DeepSeek-V3"
    layers: int = 58
    experts: int = 256
    num_groups: int = 8
    top_k: int = 8
    windows: int = 12
    records_per_window: int = 10
    steps_per_record: int = 10
    tokens_per_record: int = 32768
    skew: float = 0.68
    tail: float = 0.35
    group_skew: float = 0.15
    layer_spread: float = 0.15
    domains: int = 6
    specialisation: float = 0.4
    drift: float = 0.12
    volatility_spread: float = 0.5
    domain_drift: float = 0.2
    burstiness: float = 0.3
    jitter: float = 0.1
    regime_window: int | None = 9
    regime_shift: float = 0.85
    shifts: tuple[tuple[int, float], ...] = ((1, 0.3), (10, 0.25), (11, 0.25))
    seed: int = 0

    @property
    def records(self) -> int:
        return self.windows * self.records_per_window

    @property
    def header(self) -> TraceHeader:
        return TraceHeader(
            model=self.model,
            source="synthetic: eplb.workload_model; no recording of a real deployment",
            seed=self.seed,
            top_k=self.top_k,
            num_groups=self.num_groups,
            steps_per_record=self.steps_per_record,
            rebalance_interval=self.records_per_window,
        )


# Windows after which a drifting weight has forgotten where it was.
MEMORY_WINDOWS = 10.0


def generate(model: WorkloadModel) -> Trace:
    """The trace of ``model``; every record and layer holds exactly tokens x top_k."""
    _check(model)
    loads = np.empty((model.records, model.layers, model.experts), dtype=np.int64)
    busy = _wander(_Draws(model.seed, "busy"), model.records, 0.15, 0.7, (1,))
    for record, share in enumerate(_shares(model)):
        tokens = max(1, round(model.tokens_per_record * float(np.exp(busy[record, 0]))))
        expected = _share_out(share, tokens, model.top_k)
        noise = _Draws(model.seed, "sample", record).normal(share.shape)
        sampled = expected + noise * np.sqrt(expected * (1 - expected / tokens))
        exact = _share_out(np.maximum(sampled, 0), tokens, model.top_k)
        loads[record] = np.diff(np.rint(exact.cumsum(axis=1)), axis=1, prepend=0)
    return Trace(loads, model.header)


def _shares(model: WorkloadModel) -> Iterator[np.ndarray]:
    """[layers, experts] expected relative load, record by record."""
    per_window = model.records_per_window
    keep = float(np.exp(-1 / (MEMORY_WINDOWS * per_window)))
    # The stationary deviation whose change over one window has the wanted deviation.
    spread = 1 / np.sqrt(2 * (1 - np.exp(-1 / MEMORY_WINDOWS)))
    draws = _Draws(model.seed, "domains")
    slow = _wander(draws, model.records, model.domain_drift * spread, keep, (model.domains,))
    bursts = _wander(draws, model.records, model.burstiness, 0.5, (model.domains,))
    cells = (model.layers, model.experts)
    volatility = np.exp(model.volatility_spread * _Draws(model.seed, "volatility").normal(cells))
    volatility *= model.drift * spread
    calm = _Draws(model.seed, "experts")
    drift = calm.normal(cells)
    latent = _latent(model, 0)
    shifts = dict(model.shifts)
    if model.regime_window is not None:
        shifts[model.regime_window] = model.regime_shift
    for window in range(model.windows):
        if window in shifts:
            share = shifts[window]
            latent = np.sqrt(1 - share) * latent + np.sqrt(share) * _latent(model, window)
        popularity = _popularity(model, latent)
        for record in range(window * per_window, (window + 1) * per_window):
            weight = np.exp(slow[record] + bursts[record])
            drift = keep * drift + np.sqrt(1 - keep**2) * calm.normal(cells)
            own = volatility * drift + model.jitter * calm.normal(cells)
            yield np.tensordot(weight / weight.sum(), popularity, axes=1) * np.exp(own)


def _latent(model: WorkloadModel, window: int) -> np.ndarray:
    """[domains, layers, experts + groups] standard normal: experts', then groups' own part."""
    draws = _Draws(model.seed, "popularity", window)
    cells = (model.layers, model.experts + model.num_groups)
    shared = draws.normal((1, *cells))
    own = draws.normal((model.domains, *cells))
    part = model.specialisation
    return np.sqrt(1 - part) * shared + np.sqrt(part) * own


def _popularity(model: WorkloadModel, latent: np.ndarray) -> np.ndarray:
    """[domains, layers, experts] relative popularity with mean 1 over experts."""
    expert, group = latent[..., : model.experts], latent[..., model.experts :]
    spread = 1 + model.layer_spread * _Draws(model.seed, "layers").normal((model.layers, 1))
    skew = model.skew * np.clip(spread, 0.3, 2)
    log = skew * (expert + model.tail * np.maximum(expert - 1, 0))
    log = log + model.group_skew * np.repeat(group, model.experts // model.num_groups, axis=-1)
    popularity = np.exp(log)
    return popularity / popularity.mean(axis=-1, keepdims=True)


def _share_out(weight: np.ndarray, tokens: int, top_k: int) -> np.ndarray:
    """Split tokens x top_k over each row in proportion to ``weight``, at most ``tokens`` a cell.

    A token chooses ``top_k`` different experts, so that none sees more than every token.
    """
    total = tokens * top_k
    capped = np.zeros(weight.shape, dtype=bool)
    while True:
        room = total - tokens * capped.sum(axis=1, keepdims=True)
        free = np.where(capped, 0, weight)
        scale = room / np.maximum(free.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        load = np.where(capped, tokens, free * scale)
        over = load > tokens
        if not over.any():
            return load
        capped |= over


def _wander(draws: _Draws, steps: int, deviation: float, keep: float, cells: tuple) -> np.ndarray:
    """[steps, *cells] first-order autoregressive noise of the given stationary deviation."""
    fresh = draws.normal((steps, *cells))
    path = fresh.copy()
    for step in range(1, steps):
        path[step] = keep * path[step - 1] + np.sqrt(1 - keep**2) * fresh[step]
    return deviation * path


class _Draws:
    """Standard normal numbers of one purpose, independent of every other purpose's."""

    def __init__(self, seed: int, purpose: str, step: int = 0) -> None:
        entropy = [seed, step, *purpose.encode()]
        self._words = np.random.PCG64(np.random.SeedSequence(entropy))

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """By Box and Muller, from the raw words: numpy may change its own normal numbers."""
        count = int(np.prod(shape))
        words = self._words.random_raw(2 * count) >> np.uint64(11)
        uniform = (words + 0.5) * 2.0**-53
        radius = np.sqrt(-2 * np.log(uniform[:count]))
        return (radius * np.cos(2 * np.pi * uniform[count:])).reshape(shape)


def _check(model: WorkloadModel) -> None:
    for name in ("layers", "experts", "num_groups", "top_k", "windows", "records_per_window"):
        if getattr(model, name) < 1:
            raise UserError(f"{name} is {getattr(model, name)}; it must be at least 1")
    if model.experts % model.num_groups:
        raise UserError(f"num_groups {model.num_groups} does not divide {model.experts} experts")
    if model.top_k > model.experts:
        raise UserError(f"top_k {model.top_k} is more than the {model.experts} experts")


PRESETS = {"deepseek-v3": WorkloadModel()}

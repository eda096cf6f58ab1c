"""The loads of a drifting mixture of domains, record by record.

Every domain of the traffic (code, law, chat, …) has its own popularity of the experts of a layer:
log-normal with a shoulder of hot experts, correlated within expert groups and, in part, across
domains. The weights of the domains wander and burst, single experts wander on their own, and at
some windows, above all at the regime change, a share of every popularity is replaced. Tokens are
then sampled.

Covered: loads per record, layer and expert. Not covered: single tokens, and correlations between
layers beyond those that the common mixture brings.

Reproducibility: all random numbers are made of raw PCG64 words (`Draws`), and none depends on an
earlier result. The same model and seed give the same trace with the same numpy on the same kind
of processor; elsewhere exp, log and cos may differ in their last bit, which very rarely moves a
token from one expert to its neighbour.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eplb.trace import Trace
from eplb.workload_model.model import WorkloadModel

# Windows in which the weight of a domain forgets where it was.
DOMAIN_MEMORY = 10.0

# Deviations from which on an expert takes part in the peak of a regime change: one in a hundred.
PEAK_AT = 2.4
PEAK_WIDTH = 0.1


class Draws:
    """Standard normal numbers for one purpose, independent of every other purpose's."""

    def __init__(self, seed: int, purpose: str, step: int = 0) -> None:
        entropy = [seed, step, *purpose.encode()]
        self._words = np.random.PCG64(np.random.SeedSequence(entropy))

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Box and Muller's transform of raw words: numpy promises to keep those, and only those."""
        count = int(np.prod(shape))
        words = self._words.random_raw(2 * count) >> np.uint64(11)
        uniform = (words + 0.5) * 2.0**-53
        radius = np.sqrt(-2 * np.log(uniform[:count]))
        return (radius * np.cos(2 * np.pi * uniform[count:])).reshape(shape)


def wander(draws: Draws, deviation: float, keep: float, shape: tuple[int, ...]) -> np.ndarray:
    """First-order autoregressive noise along the first axis, of the given stationary deviation."""
    fresh = draws.normal(shape)
    path = fresh.copy()
    for step in range(1, shape[0]):
        path[step] = keep * path[step - 1] + np.sqrt(1 - keep**2) * fresh[step]
    return deviation * path


def generate(model: WorkloadModel) -> Trace:
    """The trace of ``model``: every layer of a record holds exactly tokens x top_k.

    Raises `UserError` where the model makes no sense.
    """
    model.check()
    loads = np.empty((model.records, model.layers, model.experts), dtype=np.int64)
    busy = np.exp(wander(Draws(model.seed, "busy"), model.busyness, 0.7, (model.records,)))
    for record, share in enumerate(_shares(model)):
        tokens = max(1, round(model.tokens_per_record * float(busy[record])))
        loads[record] = _sample(model, record, share, tokens)
    return Trace(loads, model.header)


def _sample(model: WorkloadModel, record: int, share: np.ndarray, tokens: int) -> np.ndarray:
    """[layers, experts] int64: ``tokens`` choose ``top_k`` experts each, by their ``share``.

    The normal approximation to binomial counts, rounded so that every row keeps its sum.
    """
    expected = _share_out(share, tokens, model.top_k)
    noise = Draws(model.seed, "sample", record).normal(share.shape)
    sampled = expected + noise * np.sqrt(expected * (1 - expected / tokens))
    # The floor leaves something to share out where noise emptied all but fewer than top_k experts.
    exact = _share_out(np.maximum(sampled, 1e-6 * tokens), tokens, model.top_k)
    rounded = np.floor(exact.cumsum(axis=1) + 0.5)
    return np.diff(rounded, axis=1, prepend=0).astype(np.int64)


def _share_out(weight: np.ndarray, tokens: int, top_k: int) -> np.ndarray:
    """Split tokens x top_k over each row in proportion to ``weight``, at most ``tokens`` a cell.

    A token chooses ``top_k`` different experts, so that none sees more than every token.
    """
    total = tokens * top_k
    full = np.zeros(weight.shape, dtype=bool)
    while True:
        free = np.where(full, 0, weight)
        rest = total - tokens * full.sum(axis=1, keepdims=True)
        sums = np.maximum(free.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        load = np.where(full, tokens, free * (rest / sums))
        over = load > tokens
        if not over.any():
            return load
        full |= over


def _shares(model: WorkloadModel) -> Iterator[np.ndarray]:
    """[layers, experts] expected load in any unit, record by record."""
    mixture = _mixture(model)
    skew = _layer_skew(model)
    cells = (model.layers, model.experts)
    memory = model.memory * np.exp(model.memory_spread * Draws(model.seed, "memory").normal(cells))
    keep = np.exp(-1 / (memory * model.records_per_window))
    experts = Draws(model.seed, "experts")
    wandering = experts.normal(cells)
    latent = _latent(model, 0)
    for record in range(model.records):
        window = record // model.records_per_window
        if record % model.records_per_window == 0:
            latent = _replace_share(model, latent, window)
        wandering = keep * wandering + np.sqrt(1 - keep**2) * experts.normal(cells)
        popularity = _popularity(model, window, latent, wandering, skew)
        mixed = np.tensordot(mixture[record], popularity, axes=1)
        bent = mixed / (1 + (mixed / model.ceiling) ** 8) ** 0.125
        yield bent * np.exp(model.jitter * experts.normal(cells))


def _mixture(model: WorkloadModel) -> np.ndarray:
    """[records, domains] share of each domain in the traffic."""
    keep = float(np.exp(-1 / (DOMAIN_MEMORY * model.records_per_window)))
    # The stationary deviation whose change from window to window has the wanted deviation.
    deviation = model.domain_drift / np.sqrt(2 * (1 - np.exp(-1 / DOMAIN_MEMORY)))
    draws = Draws(model.seed, "domains")
    slow = wander(draws, deviation, keep, (model.records, model.domains))
    bursts = wander(draws, model.burstiness, 0.5, (model.records, model.domains))
    weight = np.exp(slow + bursts)
    return weight / weight.sum(axis=1, keepdims=True)


def _layer_skew(model: WorkloadModel) -> np.ndarray:
    """[layers, 1] skew of each layer relative to the mean."""
    spread = Draws(model.seed, "layers").normal((model.layers, 1))
    return np.clip(1 + model.layer_spread * spread, 0.3, 2)


def _latent(model: WorkloadModel, window: int) -> np.ndarray:
    """[domains, layers, experts + groups] standard normal: the experts' own, then the groups'."""
    draws = Draws(model.seed, "popularity", window)
    cells = (model.layers, model.experts + model.num_groups)
    shared = draws.normal((1, *cells))
    own = draws.normal((model.domains, *cells))
    return np.sqrt(1 - model.specialisation) * shared + np.sqrt(model.specialisation) * own


def _replace_share(model: WorkloadModel, latent: np.ndarray, window: int) -> np.ndarray:
    """``latent`` as ``window`` begins: what shifts and the regime change leave of it, and add."""
    share = dict(model.shifts).get(window, 0.0)
    if window == model.regime_window:
        share = model.regime_shift
    if share == 0:
        return latent
    return np.sqrt(1 - share) * latent + np.sqrt(share) * _latent(model, window)


def _popularity(
    model: WorkloadModel, window: int, latent: np.ndarray, wandering: np.ndarray, skew: np.ndarray
) -> np.ndarray:
    """[domains, layers, experts] relative popularity with mean 1 over the experts of a layer."""
    expert, group = latent[..., : model.experts], latent[..., model.experts :]
    expert = np.sqrt(1 - model.drift) * expert + np.sqrt(model.drift) * wandering
    if model.num_groups == 1:
        # What all experts share is no difference between them.
        group = np.zeros_like(group)
    group = np.repeat(group, model.experts // model.num_groups, axis=-1)
    near = expert + model.group_hot * group
    log = model.skew * expert + model.hot * _step(near, model.hot_at, model.hot_width)
    if model.regime_window is not None and window >= model.regime_window:
        log = model.regime_skew * log
    if window == model.regime_window:
        common = expert.mean(axis=0)
        # A single expert has no spread.
        common = common / (common.std() or 1.0)
        log = log + model.regime_peak * _step(common, PEAK_AT, PEAK_WIDTH) / skew
    popularity = np.exp(skew * log + model.group_skew * group)
    return popularity / popularity.mean(axis=-1, keepdims=True)


def _step(value: np.ndarray, at: float, width: float) -> np.ndarray:
    """A smooth step from 0 to 1: one half ``at``, gradual over ``width``."""
    return 1 / (1 + np.exp((at - value) / width))

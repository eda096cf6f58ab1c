"""From placements and times to scores: every formula of metrics.json, under its name there.

A new metric is one more `metric` of `PlacementScores`; a new scoring is one more entry of
`SCORINGS`, its formula and the sentence that a model is told. Not covered: running a program and
checking its answers (`eplb.evaluation.measure`), writing results (`eplb.evaluation.results`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from eplb.loads import balancedness, experts_in_order, migrated_experts, sum_over_gpus
from eplb.placement import Deployment, ExpertPlacement, node_locality
from eplb.throughput.dispatch import gpu_loads, slot_loads
from eplb.throughput.profile import Serving, default_serving
from eplb.throughput.worth import Worth, worth
from eplb.trace import History

# The clock cannot tell shorter calls apart, and published scorings divide by the time.
SHORTEST_MS = 1e-3
# A program this many times as fast as the seed has its speed's whole score.
FULL_SPEED = 100.0
_BALANCED = ("balancedness_score", "balancedness_expert")


class metric(cached_property):
    """A figure by window. metrics.json has it, and its mean, under the name that it has here."""


@dataclass(frozen=True)
class PlacementScores:
    """What W placements did, each made after one window; a window without tokens has no figure.

    placements: the i-th made after window i, which is scored on window i + 1
    history: W + 1 windows at least
    serving: what splits tokens among replicas, and what tokens per second are told for
    """

    placements: list[ExpertPlacement]
    history: History
    deployment: Deployment
    serving: Serving = field(default_factory=default_serving)

    @cached_property
    def slot_loads(self) -> np.ndarray:
        """[W, layers, slots] tokens per slot in the window that followed."""
        rules = (self.deployment, self.serving.dispatch)
        return np.array([slot_loads(*pair, *rules) for pair in zip(self._coming, self.placements)])

    @cached_property
    def gpu_loads(self) -> np.ndarray:
        """[W, layers, num_gpus] the same per GPU."""
        return sum_over_gpus(self.slot_loads, self.deployment.num_gpus)

    @metric
    def balancedness_score(self) -> np.ndarray:
        """[W] over GPUs, on the window that followed."""
        return balancedness(self.gpu_loads)

    @metric
    def balancedness_in_order(self) -> np.ndarray:
        """[W] the same of experts in order, which no balancer has touched."""
        layers, experts = self._coming.shape[1:]
        in_order = experts_in_order(layers, experts, self.deployment.num_replicas)
        return balancedness(self.over_gpus(self._coming, in_order))

    @metric
    def balancedness_oracle(self) -> np.ndarray:
        """[W] over GPUs, on the window that the placement was made after."""
        seen = zip(self.history.windows, self.placements)
        return np.array([balancedness(self.over_gpus(*pair)) for pair in seen])

    @metric
    def balancedness_step(self) -> np.ndarray:
        """[W] over GPUs, mean over the records of the window that followed."""
        records = zip(self.history.records[1:], self.placements)
        return np.array([mean(balancedness(self.over_gpus(*pair))) for pair in records])

    @metric
    def balancedness_expert(self) -> np.ndarray:
        """[W] over slots, on the window that followed."""
        return balancedness(self.slot_loads)

    @metric
    def migrated_experts(self) -> np.ndarray:
        """[W - 1] experts per layer that GPUs fetched from one placement to the next."""
        num_gpus = self.deployment.num_gpus
        return np.array([migrated_experts(*pair, num_gpus) for pair in pairwise(self.placements)])

    @metric
    def node_locality(self) -> np.ndarray:
        """[W] share of (layer, group) pairs that live on one node."""
        return np.array(
            [node_locality(p.phy2log, p.num_experts, self.deployment) for p in self.placements]
        )

    @cached_property
    def by_window(self) -> dict[str, np.ndarray]:
        """Every metric under its name."""
        every = [name for name, value in vars(type(self)).items() if isinstance(value, metric)]
        return {name: getattr(self, name) for name in every}

    @property
    def means(self) -> dict[str, float]:
        """Every metric's mean over the windows."""
        return {name: mean(values) for name, values in self.by_window.items()}

    @property
    def _coming(self) -> np.ndarray:
        return self.history.windows[1 : len(self.placements) + 1]

    def over_gpus(self, load: np.ndarray, placement: ExpertPlacement) -> np.ndarray:
        """[..., layers, num_gpus] tokens per GPU, from ``load`` [..., layers, experts]."""
        return gpu_loads(load, placement, self.deployment, self.serving.dispatch)

    def worth(self, planning: float | Sequence[float] = 0.0) -> dict[str, Worth]:
        """By phase, what the placements are worth; ``planning``: seconds of a call, or of each."""
        profiles, rule = self.serving.profiles, self.serving.dispatch
        setting = (self._coming, self.placements, self.deployment, rule, planning)
        return dict(zip(profiles, worth(profiles.values(), *setting, self.slot_loads)))


def mean(values: np.ndarray) -> float:
    """The mean over what has a figure; 0.0 where nothing has (migrations of a single window)."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else 0.0


def call_ms(seconds: np.ndarray) -> float:
    """Milliseconds of one call, from ``seconds`` [repeats, windows].

    A repeat's mean over its windows but the first, where a fresh process warms up, then the median
    over the repeats. No window is dropped for being slow, and none outvoted: a program that
    decides in every third window has taken that time.
    """
    warm = seconds[:, 1:] if seconds.shape[1] > 1 else seconds
    return max(1e3 * float(np.median(warm.mean(axis=1))), SHORTEST_MS)


@dataclass(frozen=True)
class Figures:
    """What a combined score is made of.

    means: of the metrics, by name
    call_ms, seed_call_ms: of the program and of the seed
    throughput: what the placements are worth in each phase
    """

    means: dict[str, float]
    call_ms: float
    seed_call_ms: float
    throughput: dict[str, Worth]

    @classmethod
    def of(cls, scores: PlacementScores, seconds: np.ndarray, seed_seconds: np.ndarray) -> Figures:
        """The figures of a run: ``seconds`` and ``seed_seconds`` are [repeats, windows]."""
        ms = call_ms(seconds)
        return cls(scores.means, ms, call_ms(seed_seconds), scores.worth(ms / 1e3))

    @property
    def balance(self) -> float:
        return self.means["balancedness_score"]

    @property
    def removed(self) -> float:
        """The share of the imbalance of experts in order that the program removes, 0 to 1.

        0 where those are in balance already. The limit would be 1 at perfect balance and 0 a hair
        below it: rounding would decide over half of the score.
        """
        in_order = self.means["balancedness_in_order"]
        return max(0.0, (self.balance - in_order) / (1.0 - in_order)) if in_order < 1 else 0.0

    @property
    def speed_score(self) -> float:
        """Speed counts as far as it brings balance, and in full from a hundredfold on."""
        return self.removed * min(1.0, self.seed_call_ms / (FULL_SPEED * self.call_ms))

    @property
    def public(self) -> dict[str, float]:
        """What metrics.json shows to everybody, models included."""
        ours = ("removed", "speed_score", "call_ms", "seed_call_ms")
        kept = {f"kept_{phase}": worth.kept for phase, worth in self.throughput.items()}
        gain = {f"gain_{phase}": worth.gain for phase, worth in self.throughput.items()}
        return self.means | {name: getattr(self, name) for name in ours} | kept | gain

    @property
    def kept(self) -> float:
        """The share of the ideal tokens per second that is left, mean over the phases."""
        return float(np.mean([worth.kept for worth in self.throughput.values()]))

    def with_balance(self, gain: float) -> Figures:
        """If balancedness were higher by ``gain``, at most perfect."""
        missing = 1.0 - self.balance
        left = max(0.0, missing - gain) / missing if missing > 0 else 0.0
        better = {name: min(1.0, self.means[name] + gain) for name in _BALANCED}
        throughput = self._with_losses(imbalance=left)
        return replace(self, means=self.means | better, throughput=throughput)

    def with_speed(self, factor: float) -> Figures:
        """If calls were ``factor`` times as fast."""
        faster = self._with_losses(planning=1 / factor)
        return replace(self, call_ms=self.call_ms / factor, throughput=faster)

    def _with_losses(self, **left: float) -> dict[str, Worth]:
        """The throughput if of each loss named only the share ``left`` were left."""
        return {
            phase: replace(worth, **{name: getattr(worth, name) * of for name, of in left.items()})
            for phase, worth in self.throughput.items()
        }


@dataclass(frozen=True)
class Scoring:
    """How figures become a combined score, and what a model is told of it."""

    formula: Callable[[Figures], float]
    sentence: str


def _adrs(figures: Figures) -> float:
    seconds = 1e-3 * figures.call_ms
    late = min(20.0 * seconds, 20.0) if seconds > 0.010 else 0.0
    score = 90.0 * figures.balance + 5.0 * min(0.002 / seconds, 2.0) - late
    return min(max(score, 0.0), 100.0)


# Beside this project's own two, the scorings that the repositories of these names publish for the
# task. Their speed half is an absolute time. None is below zero, where ShinkaEvolve puts failures.
SCORINGS = {
    "eplb": Scoring(
        lambda f: (f.balance + f.speed_score) / 2.0,
        "combined_score = (balancedness_score + speed_score) / 2, where "
        "speed_score = removed * min(1, t_seed / (100 * t)), "
        "removed = max(0, (balancedness_score - b0) / (1 - b0)) and b0 is the balancedness of "
        "experts in order (slot i holds expert i mod E) on the same windows. Speed counts as far "
        "as it brings balance: a placement no better than experts in order gets nothing for it, "
        "ten times the seed's speed a tenth of it, a hundred times all of it. From there on only "
        "balance counts, and then for both halves.",
    ),
    "throughput": Scoring(
        lambda f: f.kept,
        "combined_score = mean of kept_prefill and kept_decode, where kept is the share of the "
        "ideal tokens per second that a deployment is left with: "
        "kept = T_perfect / (T_steps + T_moving + T_planning). Steps last as long as the hottest "
        "GPU in each layer; every slot with tokens costs time to read its weights, most in decode. "
        "Moving lasts until the GPU that fetches most has its experts, since serving stands still "
        "in the meantime, and fetching from another node is slower than within; planning is the "
        "program's own time. So moves must pay for themselves: change a layer where balance "
        "gains more than it costs, leave experts on the GPUs and nodes that hold them, and leave "
        "in peace what is good enough.",
    ),
    "openevolve": Scoring(
        lambda f: (f.balance + 20.0 / f.call_ms) / 2.0,
        "combined_score = (balancedness_score + 0.02 s / t) / 2.",
    ),
    "skydiscover": Scoring(
        lambda f: (f.means["balancedness_expert"] + 2.0 / f.call_ms) / 2.0,
        "combined_score = (the balancedness over slots instead of GPUs + 0.002 s / t) / 2.",
    ),
    "adrs": Scoring(
        _adrs,
        "combined_score = 90 * balancedness_score + 5 * min(0.002 s / t, 2), less min(20 t, 20) "
        "with t in seconds where t > 10 ms, within 0 to 100.",
    ),
}


def combined_scores(figures: Figures) -> dict[str, float]:
    """The combined score by each scoring."""
    return {name: scoring.formula(figures) for name, scoring in SCORINGS.items()}

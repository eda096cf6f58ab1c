"""From placements and times to scores.

Covered: what placements do to the windows they were made for and to the windows that followed,
and every formula of a score. Not covered: running a program (`eplb.sandbox.runner`), checking its
answers (`eplb.placement`), writing results (`eplb.evaluation.results`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from eplb.loads import balancedness, gpu_loads, migrated_experts, slot_loads
from eplb.placement import Deployment, ExpertPlacement, node_locality
from eplb.trace import History

# The clock cannot tell shorter calls apart, and a time of zero would score without bound.
SHORTEST_SECONDS = 1e-6


@dataclass(frozen=True)
class PlacementScores:
    """What the placements of one run did. W placements, each made after one window.

    balancedness: [W] over GPUs, on the window that followed
    same_window: [W] over GPUs, on the window that the placement was made after
    expert: [W] over slots, on the window that followed
    step: [W] over GPUs, mean over the records of the window that followed
    locality: [W] share of (layer, group) pairs that live on one node
    migrated: [W - 1] experts per layer that GPUs fetched from one placement to the next
    gpu_loads: [W, layers, num_gpus] tokens per GPU in the window that followed
    """

    balancedness: np.ndarray
    same_window: np.ndarray
    expert: np.ndarray
    step: np.ndarray
    locality: np.ndarray
    migrated: np.ndarray
    gpu_loads: np.ndarray


def score_placements(
    placements: list[ExpertPlacement], history: History, deployment: Deployment
) -> PlacementScores:
    """Score ``placements``, the i-th made after window i, on the windows that followed."""
    num_gpus, count = deployment.num_gpus, len(placements)
    seen = list(zip(history.windows[:count], placements, strict=True))
    coming = list(zip(history.windows[1 : count + 1], placements, strict=True))
    steps = zip(history.records[1 : count + 1], placements, strict=True)
    loads = np.array([gpu_loads(window, placement, num_gpus) for window, placement in coming])

    def over_gpus(load: np.ndarray, placement: ExpertPlacement) -> float:
        return balancedness(gpu_loads(load, placement, num_gpus))

    def step_by_step(records: np.ndarray, placement: ExpertPlacement) -> float:
        return float(np.mean([balancedness(r) for r in gpu_loads(records, placement, num_gpus)]))

    return PlacementScores(
        balancedness=np.array([balancedness(load) for load in loads]),
        same_window=np.array([over_gpus(*pair) for pair in seen]),
        expert=np.array([balancedness(slot_loads(*pair)) for pair in coming]),
        step=np.array([step_by_step(*pair) for pair in steps]),
        locality=np.array(
            [node_locality(p.phy2log, p.num_experts, deployment) for p in placements]
        ),
        migrated=np.array(
            [migrated_experts(*neighbours, num_gpus) for neighbours in pairwise(placements)]
        ),
        gpu_loads=loads,
    )


def call_seconds(seconds: np.ndarray) -> float:
    """The time of one call, in seconds, from ``seconds`` [repeats, windows].

    Each window's median over the repeats, then their mean without the slowest window, which is as
    a rule the first: a fresh process pays there for warming up. A median over windows would be
    nought for a program that decides in every other window and repeats itself in between.
    """
    by_window = np.sort(np.median(np.atleast_2d(seconds), axis=0))
    kept = by_window[:-1] if len(by_window) > 1 else by_window
    return max(float(kept.mean()), SHORTEST_SECONDS)


def speed_score(seconds: float, seed_seconds: float) -> float:
    """1 / (1 + 100 t / t_seed): the seed scores 0.0099, a program 100 times faster 0.5."""
    return 1.0 / (1.0 + 100.0 * seconds / seed_seconds)


@dataclass(frozen=True)
class Figures:
    """What a combined score is made of.

    balanced_gpus, balanced_slots: mean balancedness over GPUs, and over slots
    seconds, seed_seconds: of one call, of one call of the seed
    moved: share of the slots whose expert is fetched from another GPU, per window
    """

    balanced_gpus: float
    balanced_slots: float
    seconds: float
    seed_seconds: float
    moved: float


def combined_scores(figures: Figures) -> dict[str, float]:
    """The combined score by each scoring.

    ``eplb`` is this project's. ``balance`` and ``steady`` search for programs of another kind: a
    hundredth of the seed's time costs as much as 0.01 of balancedness, and for ``steady`` so do
    moves of a quarter of the slots. Neither is below zero, where ShinkaEvolve puts failures.
    The others are those that the repositories of these names publish for the task, whose speed
    half is an absolute time; `adrs` is bounded to 0-100.
    """
    balanced_gpus, seconds = figures.balanced_gpus, figures.seconds
    balance = balanced_gpus - seconds / figures.seed_seconds
    late = min(20.0 * seconds, 20.0) if seconds > 0.010 else 0.0
    adrs = 90.0 * balanced_gpus + 5.0 * min(0.002 / seconds, 2.0) - late
    return {
        "eplb": (balanced_gpus + speed_score(seconds, figures.seed_seconds)) / 2.0,
        "balance": max(balance, 0.0),
        "steady": max(balance - figures.moved / 25.0, 0.0),
        "openevolve": (balanced_gpus + 0.02 / seconds) / 2.0,
        "skydiscover": (figures.balanced_slots + 0.002 / seconds) / 2.0,
        "adrs": min(max(adrs, 0.0), 100.0),
    }


SCORINGS = ("eplb", "balance", "steady", "openevolve", "skydiscover", "adrs")

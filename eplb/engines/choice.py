"""Which of several placements to keep, the one that balances given loads best, and in which slots.

A program may plan worse than the engines' greedy rules, so their plans stand beside it wherever a
program's is deployed: DeepSeek's two, over all experts and, where the groups spread over several
nodes, with each group on one node. Not covered: tokens per second, and what moves cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from eplb import reference
from eplb.loads import balancedness, gpu_loads
from eplb.placement import Deployment, ExpertPlacement, node_locality


@dataclass(frozen=True)
class Choice:
    """Placements measured on the same loads.

    kept: the name of the one to deploy; plans, balancedness: of each by its name
    """

    kept: str
    plans: dict[str, ExpertPlacement]
    balancedness: dict[str, float]

    @property
    def best(self) -> ExpertPlacement:
        return self.plans[self.kept]

    def __str__(self) -> str:
        scores = self.balancedness
        rival = max((name for name in scores if name != self.kept), key=scores.__getitem__)
        by = scores[self.kept] - scores[rival]
        if by < 0:
            words = f"which has each group of experts on one node, {-by:.4f} of balancedness below"
            return f"kept {self.kept}, {words} {rival}, which has not"
        return f"kept {self.kept}, {by:.4f} of balancedness above {rival}"


def choose(plans: dict[str, ExpertPlacement], loads: np.ndarray, deployment: Deployment) -> Choice:
    """Measure every plan on ``loads`` [iterations, layers, experts] and keep the best.

    Of equals it is the first. Where the first plan has every group of experts on one node, only
    such plans are kept: balance is not all that a plan by nodes is for.
    """
    scores = {
        name: float(np.nanmean(balancedness(gpu_loads(loads, plan, deployment.num_gpus))))
        for name, plan in plans.items()
    }
    live, sizes = loads.any(axis=(0, 2)), (loads.shape[2], deployment)
    local = {name: node_locality(plan.phy2log[live], *sizes) == 1 for name, plan in plans.items()}
    keeps_nodes = _has_nodes(deployment) and local[next(iter(plans))]
    fits = [name for name in plans if local[name] or not keeps_nodes]
    return Choice(max(fits, key=scores.__getitem__), plans, scores)


def greedy_rules(deployment: Deployment) -> dict[str, Callable[[np.ndarray], ExpertPlacement]]:
    """The engines' rules that ``deployment`` allows, each from load [layers, experts], by name."""
    rules = {"greedy": lambda load: place_greedily(load, deployment)}
    if _has_nodes(deployment):
        rules["greedy by nodes"] = lambda load: ExpertPlacement.from_phy2log(
            reference.place_by_node(load, deployment), load.shape[1]
        )
    return rules


def place_greedily(load: np.ndarray, deployment: Deployment) -> ExpertPlacement:
    """The engines' rule on ``load`` [layers, experts]: `eplb.reference.place` as a placement."""
    slots = reference.place(load, deployment.num_replicas, deployment.num_gpus)
    return ExpertPlacement.from_phy2log(slots, load.shape[1])


def _has_nodes(deployment: Deployment) -> bool:
    return deployment.num_nodes > 1 and deployment.can_be_node_local


def keep_slots(phy2log: np.ndarray, old: np.ndarray, num_gpus: int) -> np.ndarray:
    """``phy2log`` reordered within each GPU so that experts which stay keep their ``old`` slots.

    phy2log, old: [layers, slots]; -1 in ``old`` is a slot without an expert. The other experts
    fill the remaining slots in their order.
    """
    by_gpu = (-1, phy2log.shape[1] // num_gpus)
    kept = []
    for new, before in zip(*(rows.reshape(by_gpu).tolist() for rows in (phy2log, old))):
        waiting = Counter(new)
        slots = []
        for expert in before:
            stays = waiting[expert] > 0
            waiting[expert] -= stays
            slots.append(expert if stays else None)
        rest = waiting.elements()
        kept.append([next(rest) if expert is None else expert for expert in slots])
    return np.array(kept, dtype=np.int64).reshape(phy2log.shape)

"""Which part of a balancer lost the balance: forecast, packing, replication or node locality.

The program's placements are improved one step at a time, always on the window that they were
made after, with the reference balancer of `eplb.reference`:

    as placed, on the next window
      forecast      as placed, on the window seen
      packing       the program's replicas, packed again
      replication   replicas chosen again, packed again
      nodes         the same with no node to keep to
      rest          perfect balance

Each difference is what one part lost. A program that keeps every group on one node is first
improved within its nodes; any other has no loss to nodes. Not covered: how far the reference, which
is greedy, is from the best placement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from eplb import reference
from eplb.evaluation.scores import PlacementScores, mean
from eplb.loads import slot_loads
from eplb.placement import ExpertPlacement


@dataclass(frozen=True)
class Attribution:
    """Balancedness over GPUs, mean over windows.

    placed: the placements on the next window
    improved: on the window seen, after each step of the module's text, by its name
    no_forecast: the reference made after each window, on the next one: what a good balancer
        scores that takes the last window for the next
    node_local: whether the program keeps every group on one node
    """

    placed: float
    improved: dict[str, float]
    no_forecast: float
    node_local: bool

    @property
    def losses(self) -> dict[str, float]:
        """What each part lost; a part that beats the reference lost nothing."""
        best = np.maximum.accumulate([self.placed, *self.improved.values(), 1.0])
        parts = zip((*self.improved, "rest"), np.diff(best), strict=True)
        return {name: float(gain) for name, gain in parts}


def attribute(scores: PlacementScores) -> Attribution:
    """Attribute what the placements lost, under the dispatch that they are scored by."""
    history, deployment, placements = scores.history, scores.deployment, scores.placements
    _, layers, experts = history.seen.shape
    num_gpus, num_replicas = deployment.num_gpus, deployment.num_replicas
    node_local = bool((scores.node_locality == 1.0).all()) and deployment.num_nodes > 1
    nodes = deployment.num_nodes if node_local else 1
    on_nodes = {"num_slots": num_replicas // nodes, "num_gpus": num_gpus // nodes}

    def placed(phy2log: np.ndarray) -> PlacementScores:
        """The scores of other placements, ``phy2log`` of all windows, layers and nodes."""
        by_window = phy2log.reshape(len(placements), layers, num_replicas)
        others = [ExpertPlacement.from_phy2log(each, experts) for each in by_window]
        return replace(scores, placements=others)

    # Windows, layers and nodes are rows of the same arrays.
    seen = history.seen.reshape(-1, experts).astype(np.float64)
    free = placed(reference.place(seen, num_replicas, num_gpus))
    held = np.stack([placement.holders(nodes) for placement in placements])
    present = held.reshape(len(seen), experts, nodes).transpose(0, 2, 1).reshape(-1, experts)
    replicated = reference.place(np.repeat(seen, nodes, axis=0), **on_nodes, present=present)
    # The program's own replicas, packed again.
    by_slot = np.stack([slot_loads(*pair) for pair in zip(history.seen, placements, strict=True)])
    gpu = reference.pack(by_slot.reshape(len(present), -1), on_nodes["num_gpus"])
    expert = np.stack([placement.phy2log for placement in placements]).reshape(len(present), -1)
    repacked = np.take_along_axis(expert, np.argsort(gpu, axis=1, kind="stable"), axis=1)
    improved = {
        "forecast": scores,
        "packing": placed(repacked),
        "replication": placed(replicated),
        "nodes": free,
    }
    return Attribution(
        mean(scores.balancedness_score),
        {name: mean(each.balancedness_oracle) for name, each in improved.items()},
        mean(free.balancedness_score),
        node_local,
    )

"""Which part of a balancer lost the balance: forecast, packing, replication or node locality.

The program's placements are improved one step at a time, always on the window that they were
made after, with the reference balancer of `eplb.reference`:

    as placed, on the next window
      forecast      as placed, on the window seen
      packing       the program's replicas, packed again
      replication   replicas chosen again, packed again
      nodes         the same with no node to keep to
      rest          perfect balance

Each difference is what one part lost. A program that node-locally placed every group is first
improved within its nodes; any other has no loss to nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eplb import reference
from eplb.evaluation.scores import PlacementScores, mean
from eplb.loads import balancedness, slot_loads
from eplb.placement import ExpertPlacement, count_replicas


@dataclass(frozen=True)
class Attribution:
    """Balancedness over GPUs, mean over windows, after each step of the improvement.

    balancedness_score: the placements on the next window
    balancedness_oracle: the placements on the window seen
    repacked, replicated, free: on the window seen, after the step of the module's text
    no_forecast: the reference made after each window, on the next one: what a good balancer
        scores that takes the last window for the next
    node_local: whether the program keeps every group on one node
    """

    balancedness_score: float
    balancedness_oracle: float
    repacked: float
    replicated: float
    free: float
    no_forecast: float
    node_local: bool

    @property
    def losses(self) -> dict[str, float]:
        """What each part lost; a part that beats the reference lost nothing."""
        placed = (self.balancedness_score, self.balancedness_oracle)
        best = np.maximum.accumulate([*placed, self.repacked, self.replicated, self.free, 1.0])
        names = ("forecast", "packing", "replication", "nodes", "rest")
        return {name: float(gain) for name, gain in zip(names, np.diff(best), strict=True)}


def attribute(scores: PlacementScores) -> Attribution:
    """Attribute what the placements lost. All windows and layers are rows of the same arrays."""
    history, deployment = scores.history, scores.deployment
    windows, layers, experts = history.seen.shape
    seen = history.seen.reshape(-1, experts).astype(np.float64)
    coming = history.windows[1:].reshape(-1, experts).astype(np.float64)
    num_gpus, num_replicas = deployment.num_gpus, deployment.num_replicas

    def mean_balancedness(gpu_load: np.ndarray) -> float:
        """Mean over windows, from [windows * layers * nodes, GPUs of the node]."""
        return mean(balancedness(gpu_load.reshape(windows, layers, num_gpus)))

    def packed(replicas: np.ndarray, gpus: int) -> float:
        return mean_balancedness(
            reference.pack_loads(replicas, reference.pack(replicas, gpus), gpus)
        )

    free_placement = reference.place(seen, num_replicas, num_gpus)
    every_row = np.arange(len(seen))[:, None]
    count = count_replicas(free_placement, experts)

    def free_score(load: np.ndarray) -> float:
        slots = (load / count)[every_row, free_placement]
        return mean_balancedness(slots.reshape(len(slots), num_gpus, -1).sum(axis=2))

    node_local = bool((scores.node_locality == 1.0).all()) and deployment.num_nodes > 1
    nodes = deployment.num_nodes if node_local else 1
    as_placed = np.stack(
        [slot_loads(w, p) for w, p in zip(history.seen, scores.placements, strict=True)]
    )
    as_placed = as_placed.reshape(-1, num_replicas // nodes)
    on_node, present = _node_loads(scores.placements, seen, nodes)
    return Attribution(
        balancedness_score=mean(scores.balancedness_score),
        balancedness_oracle=mean(scores.balancedness_oracle),
        repacked=packed(as_placed, num_gpus // nodes),
        replicated=packed(
            reference.replica_loads(
                on_node, reference.replicate(on_node, num_replicas // nodes, present)
            ),
            num_gpus // nodes,
        ),
        free=free_score(seen),
        no_forecast=free_score(coming),
        node_local=node_local,
    )


def _node_loads(
    placements: list[ExpertPlacement], seen: np.ndarray, nodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """[windows * layers * nodes, experts] twice: loads, and which experts the node holds."""
    experts = seen.shape[1]
    held = np.stack([placement.holders(nodes) for placement in placements])
    present = held.reshape(len(seen), experts, nodes).transpose(0, 2, 1).reshape(-1, experts)
    return np.repeat(seen, nodes, axis=0), present

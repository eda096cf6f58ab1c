"""From what is deployed to a new placement with as few weights moved as can be.

Covered: giving GPUs and slots of a plan other numbers, which costs no balance, and leaving alone
the layers where the plan would not pay for its moves. Not covered: making a plan that is near to
what is deployed, which is a program's work (`programs/steady.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from eplb.placement import Deployment, ExpertPlacement, node_locality
from eplb.throughput.profile import Profile
from eplb.throughput.worth import fetching_seconds, layer_seconds


def relabel(
    before: ExpertPlacement, after: ExpertPlacement, deployment: Deployment
) -> ExpertPlacement:
    """``after`` with its GPUs and slots numbered so that GPUs fetch the fewest experts.

    In each layer, which GPU takes over which GPU's slots is an assignment problem; of all ways it
    finds the best. The loads of the GPUs stay what they were, on other GPUs. A node's GPUs stay
    together where ``after`` keeps every group of experts on one node. An expert that stays on its
    GPU keeps its slot.
    """
    layers, slots = after.phy2log.shape
    gpus = deployment.num_gpus
    held, needed = before.holders(gpus), after.holders(gpus)
    # [layers, new GPU, GPU] experts that need not be fetched.
    spared = np.einsum("len,leg->lng", needed.astype(np.float32), held.astype(np.float32))
    local = node_locality(after.phy2log, after.num_experts, deployment) == 1.0
    nodes = deployment.num_nodes if local else 1
    blocks = after.phy2log.reshape(layers, gpus, -1)
    old = before.phy2log.reshape(layers, gpus, -1)
    rows = np.empty_like(blocks)
    for layer in range(layers):
        rows[layer, _best_gpus(spared[layer], nodes)] = blocks[layer]
        for gpu in range(gpus):
            rows[layer, gpu] = _keep_slots(old[layer, gpu], rows[layer, gpu])
    return ExpertPlacement.from_phy2log(rows.reshape(layers, slots), after.num_experts)


def _best_gpus(spared: np.ndarray, nodes: int) -> np.ndarray:
    """[new GPUs] the GPU for each, such that most of ``spared`` [new GPUs, GPUs] is spared."""
    size = len(spared) // nodes
    inside = np.empty((nodes, nodes, size), dtype=np.int64)
    total = np.empty((nodes, nodes))
    for new in range(nodes):
        for node in range(nodes):
            part = spared[new * size : (new + 1) * size, node * size : (node + 1) * size]
            row, inside[new, node] = linear_sum_assignment(part, maximize=True)
            total[new, node] = part[row, inside[new, node]].sum()
    new, node = linear_sum_assignment(total, maximize=True)
    return (node[:, None] * size + inside[new, node]).ravel()


def _keep_slots(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """``new`` [slots] in an order in which what was there in ``old`` [slots] is where it was."""
    left = new.tolist()
    row = np.full(len(old), -1)
    for slot, expert in enumerate(old[: len(new)].tolist()):
        if expert in left:
            left.remove(expert)
            row[slot] = expert
    row[row < 0] = left
    return row


def economical(
    before: ExpertPlacement,
    after: ExpertPlacement,
    load: np.ndarray,
    deployment: Deployment,
    profiles: Sequence[Profile],
    rule: str = "even",
) -> ExpertPlacement:
    """``after`` in the layers where it pays for its moves, and elsewhere ``before``.

    load: [layers, experts] tokens that are expected in the next window. A layer pays where its
    steps get faster by more than the GPU that fetches most of it takes, and the whole where that
    is more than a rearrangement's fixed stall; under several profiles the sums count.
    """
    gain = sum(
        layer_seconds(profile, load, before, deployment, rule)
        - layer_seconds(profile, load, after, deployment, rule)
        - fetching_seconds(profile, before, after, deployment).max(axis=1)
        for profile in profiles
    )
    pays = gain > 0
    if gain[pays].sum() <= sum(profile.fixed_stall for profile in profiles):
        return before
    rows = np.where(pays[:, None], after.phy2log, before.phy2log)
    return ExpertPlacement.from_phy2log(rows, after.num_experts)

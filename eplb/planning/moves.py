"""From what is deployed to a new placement with as few weights moved as can be.

Covered: giving GPUs and slots of a plan other numbers, which costs no balance, and leaving alone
the layers where the plan would not pay for its moves. Not covered: making a plan that is near to
what is deployed, which is a program's work (`programs/steady.py`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from eplb.common import UserError
from eplb.engines import registry
from eplb.engines.choice import keep_slots
from eplb.engines.model import ExpertStatistics
from eplb.loads import fetched_experts
from eplb.placement import Deployment, ExpertPlacement, node_locality
from eplb.planning.matching import align
from eplb.throughput.profile import Profile, Serving
from eplb.throughput.worth import fetching_seconds, layer_seconds

# Two plans of the same steady loads differ by about so much of a layer's time, either way.
CHANCE = 0.01


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
    rows = np.empty_like(blocks)
    for layer in range(layers):
        rows[layer, _best_gpus(spared[layer], nodes)] = blocks[layer]
    rows = keep_slots(rows.reshape(layers, slots), before.phy2log, gpus)
    return ExpertPlacement.from_phy2log(rows, after.num_experts)


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


def economical(
    before: ExpertPlacement,
    after: ExpertPlacement,
    rehearsed: ExpertPlacement,
    load: np.ndarray,
    deployment: Deployment,
    serving: Serving,
) -> ExpertPlacement:
    """``after`` in the layers where it pays for its moves, and elsewhere ``before``.

    rehearsed: a plan made in the same way as ``after``, before ``load`` was known; what it gains
    there is what ``after`` can be expected to gain on loads to come, while on loads that it was
    made for it would always seem to gain
    load: [layers, experts] tokens of a window

    A layer pays where its steps get faster by more than `CHANCE` and by more than the GPU takes
    that fetches most of it, and the whole where that is more than a rearrangement's fixed stall;
    of several profiles the sums count.
    """
    profiles, rule = serving.profiles.values(), serving.dispatch
    gain = -sum(fetching_seconds(each, before, after, deployment).max(axis=1) for each in profiles)
    for profile in profiles:
        now = layer_seconds(profile, load, before, deployment, rule)
        gain += now * (1 - CHANCE) - layer_seconds(profile, load, rehearsed, deployment, rule)
    pays = gain > 0
    if gain[pays].sum() <= sum(profile.fixed_stall for profile in profiles):
        return before
    rows = np.where(pays[:, None], after.phy2log, before.phy2log)
    return ExpertPlacement.from_phy2log(rows, after.num_experts)


def deployed(path: Path, statistics: ExpertStatistics, deployment: Deployment) -> ExpertPlacement:
    """What the placement file ``path`` has in the layers of ``statistics``.

    Raises `UserError` for a placement of another shape than ``deployment``.
    """
    current = align(registry.read_placement(path), statistics, path)
    slots, ranks = current.phy2log.shape[1], current.num_gpus or deployment.num_gpus
    if (slots, ranks) != (deployment.num_replicas, deployment.num_gpus):
        raise UserError(
            f"--current {path} has {slots} slots on {ranks} ranks, the plan "
            f"{deployment.num_replicas} on {deployment.num_gpus}; give --ep_size {ranks} "
            f"--num_slots {slots}, or leave --current out"
        )
    return current.checked


def reached(
    before: ExpertPlacement,
    planned: ExpertPlacement,
    rehearsed: ExpertPlacement,
    load: np.ndarray,
    deployment: Deployment,
    serving: Serving,
) -> tuple[ExpertPlacement, str]:
    """``planned`` as it is best reached from ``before``, and what is moved, in words.

    The other arguments are those of `economical`.
    """
    renumbered = relabel(before, planned, deployment)
    written = economical(before, renumbered, rehearsed, load, deployment, serving)
    profile = next(iter(serving.profiles.values()))
    ways = {"as planned": planned, "renumbered": renumbered, "as written": written}
    lines = [
        f"  {name:<12}{_to_fetch(before, after, deployment, profile)}"
        for name, after in ways.items()
    ]
    kept = int((written.phy2log == before.phy2log).all(axis=1).sum())
    lines.append(f"{kept} of {len(before.phy2log)} layers would not pay for their moves, and stay")
    return written, "\n".join(lines)


def _to_fetch(
    before: ExpertPlacement, after: ExpertPlacement, deployment: Deployment, profile: Profile
) -> str:
    shape = (deployment.num_gpus, deployment.num_nodes)
    by_gpu = sum(fetched_experts(before, after, *shape)).sum(axis=0)
    gigabytes = by_gpu * profile.bytes_per_expert / 1e9
    seconds = fetching_seconds(profile, before, after, deployment).sum(axis=0).max()
    return (
        f"{by_gpu.sum():>7} experts, {gigabytes.sum():>8.1f} GB, {gigabytes.max():>6.1f} GB and "
        f"{seconds:.2f} s on one rank"
    )

"""The greedy balancer in numpy, many rows at once: what programs and traces are compared with.

Covered: DeepSeek's two policies (https://github.com/deepseek-ai/EPLB), over all experts at once
and with every group of experts on one node. Not covered: history, or anything better than greedy.

Replicas go greedily to the expert with the hottest replica, and replicas are packed heaviest
first to the lightest GPU that has room (longest processing time first; Graham, 1969). Neither is
optimal: a program may beat this reference.
"""

from __future__ import annotations

import numpy as np

from eplb.placement import Deployment


def replicate(load: np.ndarray, num_slots: int, present: np.ndarray | None = None) -> np.ndarray:
    """[rows, experts] int64: replicas of each expert of ``load`` [rows, experts] in ``num_slots``.

    present: [rows, experts] bool, the experts that the row holds at all; every one by default,
        and at most ``num_slots`` in a row
    """
    held = np.ones(load.shape, dtype=bool) if present is None else present
    count = held.astype(np.int64)
    # An absent expert must never be chosen, not even where all loads are zero.
    per_replica = np.where(held, load, -1.0).astype(np.float64)
    spare = num_slots - count.sum(axis=1)
    for used in range(int(spare.max(initial=0))):
        row = np.flatnonzero(spare > used)
        hottest = per_replica[row].argmax(axis=1)
        count[row, hottest] += 1
        per_replica[row, hottest] = load[row, hottest] / count[row, hottest]
    return count


def pack(weight: np.ndarray, num_packs: int) -> np.ndarray:
    """[rows, items] int64: the pack of each item of ``weight`` [rows, items].

    Packs hold items / num_packs items each; ``num_packs`` divides the items.
    """
    rows, items = weight.shape
    heaviest_first = np.argsort(-weight, axis=1, kind="stable")
    sorted_weight = np.ascontiguousarray(np.take_along_axis(weight, heaviest_first, axis=1).T)
    chosen = np.empty((items, rows), dtype=np.int64)
    # Flat cells [rows * num_packs], since this loop is most of the time that feedback takes.
    first_cell = np.arange(rows) * num_packs
    open_load = np.zeros(rows * num_packs)
    room = np.full(rows * num_packs, items // num_packs)
    for rank in range(items):
        lightest = open_load.reshape(rows, num_packs).argmin(axis=1)
        chosen[rank] = lightest
        cell = first_cell + lightest
        open_load[cell] += sorted_weight[rank]
        room[cell] -= 1
        open_load[cell[room[cell] == 0]] = np.inf
    pack_of = np.empty((rows, items), dtype=np.int64)
    np.put_along_axis(pack_of, heaviest_first, chosen.T, axis=1)
    return pack_of


def place(
    load: np.ndarray, num_slots: int, num_gpus: int, present: np.ndarray | None = None
) -> np.ndarray:
    """[rows, num_slots] int64: ``phy2log`` of the reference for ``load`` [rows, experts].

    present: the experts that the row holds at all, as in `replicate`
    """
    rows, experts = load.shape
    count = replicate(load, num_slots, present)
    expert = np.repeat(np.tile(np.arange(experts), rows), count.ravel()).reshape(rows, num_slots)
    return _packed(load / np.maximum(count, 1), expert, num_gpus)


def place_by_node(load: np.ndarray, deployment: Deployment) -> np.ndarray:
    """[rows, num_replicas] int64: DeepSeek's policy, every group of experts on one node.

    The nodes divide the groups; one group and one node make it the global policy. Unlike `place`
    it packs the first replicas before the spare ones that weigh the same, as DeepSeek's code does.
    """
    rows, experts = load.shape
    nodes, groups = deployment.num_nodes, deployment.num_groups
    size = experts // groups
    node = pack(load.reshape(rows, groups, size).sum(axis=2), nodes)
    group = np.argsort(node, axis=1, kind="stable")
    member = (group[:, :, None] * size + np.arange(size)).reshape(rows * nodes, -1)
    on_node = np.take_along_axis(np.repeat(load, nodes, axis=0), member, axis=1)

    first = np.tile(np.arange(experts // nodes), (rows * nodes, 1))
    count = replicate(on_node, deployment.slots_per_node)
    spare = np.repeat(first.ravel(), (count - 1).ravel()).reshape(rows * nodes, -1)
    expert = np.concatenate([first, spare], axis=1)
    placed = _packed(on_node / count, expert, deployment.num_gpus // nodes)
    return np.take_along_axis(member, placed, axis=1).reshape(rows, -1)


def _packed(per_replica: np.ndarray, expert: np.ndarray, num_gpus: int) -> np.ndarray:
    """[rows, slots]: the replicas ``expert`` [rows, slots] in the order of the GPUs they go to."""
    gpu = pack(np.take_along_axis(per_replica, expert, axis=1), num_gpus)
    return np.take_along_axis(expert, np.argsort(gpu, axis=1, kind="stable"), axis=1)

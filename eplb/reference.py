"""A good balancer in numpy, many rows at once: what a program's balancedness is compared with.

Replicas go greedily to the expert with the hottest replica, and replicas are packed heaviest
first to the lightest GPU that has room (longest processing time first; Graham, 1969). Neither is
optimal: a program may beat this reference.
"""

from __future__ import annotations

import numpy as np


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


def replica_loads(load: np.ndarray, count: np.ndarray) -> np.ndarray:
    """[rows, slots] float64: the load of every replica; each row of ``count`` sums to ``slots``."""
    per_replica = load / np.maximum(count, 1)
    return np.repeat(per_replica.ravel(), count.ravel()).reshape(len(load), -1)


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
    gpu = pack(replica_loads(load, count), num_gpus)
    return np.take_along_axis(expert, np.argsort(gpu, axis=1, kind="stable"), axis=1)

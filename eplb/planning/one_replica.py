"""Repair of placements for engines that take a single replica of an expert per GPU.

Not covered: groups of experts that a placement keeps on nodes; exchanges do not heed them.
"""

from __future__ import annotations

import numpy as np

from eplb.common import UserError


def part_replicas(slots: np.ndarray, load: np.ndarray, num_gpus: int) -> np.ndarray:
    """Change ``slots`` [slots], the expert in each, until no GPU holds an expert twice.

    An expert with more replicas than there are GPUs gives the rest to those with the hottest
    replica; then slots are exchanged between GPUs, each time so that the hotter of the two GPUs
    ends up as cool as can be. ``load`` [experts] are the tokens of each.
    """
    slots = _cap_replicas(slots, load, num_gpus)
    per_replica = (load / np.bincount(slots, minlength=len(load)))[slots]
    gpu = np.arange(len(slots)) // (len(slots) // num_gpus)
    while (doubled := _doubled(slots, gpu)).any():
        slot = np.flatnonzero(doubled)[0]
        here, elsewhere = slots[gpu == gpu[slot]], gpu[slots == slots[slot]]
        # Taking in an expert that is doubled where it comes from may double it here, but still
        # leaves one double less. A GPU without this expert has one or the other kind, so there is
        # always a way.
        fits = np.flatnonzero(~np.isin(gpu, elsewhere) & (~np.isin(slots, here) | doubled))
        gpu_load = np.bincount(gpu, per_replica, minlength=num_gpus)
        given = per_replica[slot] - per_replica[fits]
        hotter = np.maximum(gpu_load[gpu[slot]] - given, gpu_load[gpu[fits]] + given)
        other = fits[hotter.argmin()]
        for values in (slots, per_replica):
            values[[slot, other]] = values[[other, slot]]
    return slots


def _doubled(slots: np.ndarray, gpu: np.ndarray) -> np.ndarray:
    """[slots] bool: is the slot's expert in another slot of its GPU as well?"""
    cell = slots * (gpu[-1] + 1) + gpu
    return np.bincount(cell)[cell] > 1


def _cap_replicas(slots: np.ndarray, load: np.ndarray, num_gpus: int) -> np.ndarray:
    """A copy of ``slots`` in which no expert has more than ``num_gpus`` replicas."""
    slots = slots.copy()
    replicas = np.bincount(slots, minlength=len(load))
    if len(load) * num_gpus < len(slots):
        raise UserError(
            f"{len(load)} experts fill at most {len(load) * num_gpus} slots with one replica per "
            f"GPU; use fewer than {len(slots)}"
        )
    for expert in np.flatnonzero(replicas > num_gpus):
        for slot in np.flatnonzero(slots == expert)[num_gpus:]:
            hottest = np.where(replicas < num_gpus, load / replicas, -1.0).argmax()
            slots[slot] = hottest
            replicas[hottest] += 1
    return slots

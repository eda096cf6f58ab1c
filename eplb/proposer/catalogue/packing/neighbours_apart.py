"""Bags of neighbours: items that stand side by side go to different packs.

Experts of a routing group have consecutive numbers and rise and fall together, so that two of them
on a pack are an error twice as large when the next load is another. Every run of num_packs items is
a bag, of which no pack may take two: scheduling with bag constraints (Das and Wiese, On minimizing
the makespan when some jobs cannot be assigned on the same machine, 2017).
"""

import numpy as np
import torch


def balanced_packing(weight, num_packs):
    """Deal bags of consecutive items: each pack takes one, the lightest pack the heaviest."""
    rows, items = weight.shape
    bags = items // num_packs
    heaviness = np.asarray(weight, dtype=np.float32).reshape(rows * bags, num_packs)
    heaviest_first = np.argsort(-heaviness, axis=1)
    heaviest_first += np.arange(0, rows * items, num_packs)[:, None]
    sorted_weight = heaviness.ravel()[heaviest_first].reshape(rows, bags, num_packs)
    # Uneven bags come first, so that even ones can make them good.
    order = np.argsort(sorted_weight[:, :, -1] - sorted_weight[:, :, 0], axis=1).T
    order += np.arange(0, rows * bags, bags)
    dealt = heaviest_first[order]
    start = np.arange(0, rows * num_packs, num_packs)[:, None]
    load = np.zeros((rows, num_packs), dtype=np.float32)
    pack = np.empty((bags, rows, num_packs), dtype=np.int64)
    for bag, each in enumerate(heaviness.ravel()[dealt]):
        pack[bag] = np.argsort(load, axis=1)
        load.ravel()[pack[bag] + start] += each
    pack_index = np.empty((rows, items), dtype=np.int64)
    pack_index.ravel()[dealt] = pack
    rank_in_pack = np.tile(np.arange(items) // num_packs, (rows, 1))
    return torch.from_numpy(pack_index), torch.from_numpy(rank_in_pack)

"""Longest processing time first, in rounds.

The rule is Graham's (Bounds on multiprocessing timing anomalies, 1969) under equal pack sizes: in
every round each pack takes one item, the lightest pack the heaviest of them. All rows at once.
"""

import numpy as np
import torch


def balanced_packing(weight, num_packs):
    """Pack heaviest first in rounds: each pack takes one item, the lightest pack the heaviest."""
    rows, items = weight.shape
    heaviness = np.asarray(weight, dtype=np.float32)
    row = np.arange(rows)[:, None]
    heaviest_first = np.argsort(-heaviness, axis=1) + row * items
    sorted_weight = heaviness.ravel()[heaviest_first]
    load = np.zeros(rows * num_packs, dtype=np.float32)
    pack = np.empty((rows, items), dtype=np.int64)
    for start in range(0, items, num_packs):
        lightest_first = np.argsort(load.reshape(rows, num_packs), axis=1)
        pack[:, start : start + num_packs] = lightest_first
        load[lightest_first + row * num_packs] += sorted_weight[:, start : start + num_packs]
    pack_index = np.empty((rows, items), dtype=np.int64)
    rank_in_pack = np.empty((rows, items), dtype=np.int64)
    pack_index.ravel()[heaviest_first] = pack
    rank_in_pack.ravel()[heaviest_first] = np.arange(items) // num_packs
    return torch.from_numpy(pack_index), torch.from_numpy(rank_in_pack)

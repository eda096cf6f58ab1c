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
    heaviest_first = np.argsort(-heaviness, axis=1)
    every_row = np.arange(rows)[:, None]
    load = np.zeros((rows, num_packs), dtype=np.float32)
    pack_index = np.empty((rows, items), dtype=np.int64)
    rank_in_pack = np.empty((rows, items), dtype=np.int64)
    for turn in range(items // num_packs):
        item = heaviest_first[:, turn * num_packs : (turn + 1) * num_packs]
        lightest_first = np.argsort(load, axis=1)
        pack_index[every_row, item] = lightest_first
        rank_in_pack[every_row, item] = turn
        load[every_row, lightest_first] += heaviness[every_row, item]
    return torch.from_numpy(pack_index), torch.from_numpy(rank_in_pack)

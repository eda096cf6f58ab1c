"""Longest processing time first, then a bounded number of swaps.

The improvement step is the interchange of Finn and Horowitz (A linear time approximation algorithm
for multiprocessor scheduling, 1979): exchange one item of the heaviest pack with one of the
lightest, the pair that brings the two loads closest together.
"""

import numpy as np
import torch


def balanced_packing(weight, num_packs):
    """Pack heaviest first in rounds, then swap items between the heaviest and lightest packs."""
    rows, items = weight.shape
    capacity = items // num_packs
    heaviness = np.asarray(weight, dtype=np.float32)
    heaviest_first = np.argsort(-heaviness, axis=1)
    row = np.arange(rows)
    every_row = row[:, None]
    load = np.zeros((rows, num_packs), dtype=np.float32)
    member = np.empty((rows, num_packs, capacity), dtype=np.int64)
    for turn in range(capacity):
        item = heaviest_first[:, turn * num_packs : (turn + 1) * num_packs]
        lightest_first = np.argsort(load, axis=1)
        member[every_row, lightest_first, turn] = item
        load[every_row, lightest_first] += heaviness[every_row, item]
    for _ in range(8):
        high, low = load.argmax(axis=1), load.argmin(axis=1)
        gap = load[row, high] - load[row, low]
        above = heaviness[every_row, member[row, high]]
        below = heaviness[every_row, member[row, low]]
        moved = above[:, :, None] - below[:, None, :]
        # The larger of the two loads after the swap is least where the moved load is half the gap.
        pair = np.abs(moved - gap[:, None, None] / 2).reshape(rows, -1).argmin(axis=1)
        first, second = pair // capacity, pair % capacity
        moved = moved.reshape(rows, -1)[row, pair]
        moved = np.where((moved > 0) & (moved < gap), moved, 0)
        swap = np.flatnonzero(moved > 0)
        if swap.size == 0:
            break
        given = (swap, high[swap], first[swap])
        taken = (swap, low[swap], second[swap])
        member[given], member[taken] = member[taken], member[given]
        load[row, high] -= moved
        load[row, low] += moved
    place = np.empty((rows, items), dtype=np.int64)
    place[every_row, member.reshape(rows, -1)] = np.arange(items)
    return torch.from_numpy(place // capacity), torch.from_numpy(place % capacity)

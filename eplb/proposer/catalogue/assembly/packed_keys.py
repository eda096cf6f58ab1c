"""Slots by expert from one sort of packed keys.

Appending each key's index to the key makes any sort stable (Sedgewick and Wayne, Algorithms, 4th
edition, exercise 2.5.18), and the sorted values then carry the index. An expert's replicas stand
side by side.
"""

import numpy as np
import torch


def slots_by_expert(phy2log, logcnt):
    """Sort expert * slots + slot, and cut each expert's stretch out of the sorted row."""
    layers, slots = phy2log.shape
    count = logcnt.numpy()
    key = phy2log.numpy() * slots + np.arange(slots)
    slot = np.sort(key.astype(np.int32), axis=1) % slots
    first = np.cumsum(count.ravel()).reshape(count.shape) - count
    log2phy = np.full((*count.shape, int(count.max())), -1, dtype=np.int64)
    log2phy[:, :, 0] = slot.ravel()[first]
    # Few experts have many replicas, so that each further column touches fewer of them.
    for rank in range(1, log2phy.shape[2]):
        has_more = count > rank
        log2phy[has_more, rank] = slot.ravel()[first[has_more] + rank]
    return torch.from_numpy(log2phy)

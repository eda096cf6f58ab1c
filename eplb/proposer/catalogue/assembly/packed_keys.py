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
    key = np.sort((phy2log.numpy() * slots + np.arange(slots)).astype(np.int32), axis=1)
    slot = key % slots
    replica = np.arange(int(count.max()))
    first = np.cumsum(count, axis=1) - count
    place = (first[:, :, None] + replica).clip(max=slots - 1)
    listed = slot[np.arange(layers)[:, None, None], place]
    log2phy = np.where(replica < count[:, :, None], listed, -1).astype(np.int64)
    return torch.from_numpy(log2phy)

"""Slots by expert without a sort, by writing and looking which writes survived.

All slots write themselves into their expert's first column at once; those that were overwritten
try the next column, until none is left. It is Kanada's filtering-overwritten-label method (A method
of vector processing for shared symbolic data, Parallel Computing 19, 1993).
"""

import numpy as np
import torch


def slots_by_expert(phy2log, logcnt):
    """Write every slot under its expert, column by column, until no slot is overwritten."""
    layers, slots = phy2log.shape
    experts = logcnt.shape[1]
    most = int(logcnt.max())
    log2phy = np.full((layers * experts, most), -1, dtype=np.int64)
    expert = (phy2log.numpy() + np.arange(layers)[:, None] * experts).ravel()
    slot = np.tile(np.arange(slots), layers)
    for column in range(most):
        log2phy[expert, column] = slot
        overwritten = np.flatnonzero(log2phy[expert, column] != slot)
        expert, slot = expert[overwritten], slot[overwritten]
    return torch.from_numpy(log2phy.reshape(layers, experts, most))

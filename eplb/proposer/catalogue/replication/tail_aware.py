"""Tail-aware replication: plan for an upper quantile of the load, not for its mean.

Like safety stock (Arrow, Harris and Marschak, Optimal inventory policy, 1951), every expert is
counted with a margin in proportion to its load's standard deviation. The deviation follows
Taylor's power law (Aggregation, variance and the mean, 1961): variance grows as a power of the
mean, in units of the row's mean load.
"""

import numpy as np
import torch


def replicate_experts(weight, num_physical):
    """Replicate for the load plus a margin in proportion to its standard deviation."""
    rows, experts = weight.shape
    load = np.asarray(weight, dtype=np.float32)
    mean = np.maximum(load.mean(axis=1, keepdims=True), 1e-30)
    planned = load + 0.3 * mean * (load / mean) ** 0.75
    row = np.arange(rows)
    extra = np.empty((rows, num_physical - experts), dtype=np.int64)
    count = np.ones((rows, experts), dtype=np.int64)
    share = planned.copy()
    for replica in range(num_physical - experts):
        hottest = share.argmax(axis=1)
        extra[:, replica] = hottest
        count[row, hottest] += 1
        share[row, hottest] = planned[row, hottest] / count[row, hottest]
    extra.sort(axis=1)
    phy2log = np.concatenate([np.tile(np.arange(experts), (rows, 1)), extra], axis=1)
    return torch.from_numpy(phy2log), torch.from_numpy(count)

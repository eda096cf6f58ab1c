"""Water-filling replication.

Lower a common level until the replicas that it takes to bring every expert below it,
ceil(load / level), use up the slots. The level is found by bisection, as in water-filling (Cover
and Thomas, Elements of Information Theory); ties that are left go to the hottest replicas.
"""

import numpy as np
import torch


def replicate_experts(weight, num_physical):
    """Find the level that all replicas fit below, and replicate every expert down to it."""
    rows, experts = weight.shape
    load = np.asarray(weight, dtype=np.float64)
    high = np.maximum(load.max(axis=1), 1e-30)
    low = high / num_physical / 2
    for _ in range(20):
        level = (low + high) / 2
        fits = np.ceil(load / level[:, None]).clip(min=1).sum(axis=1) <= num_physical
        high = np.where(fits, level, high)
        low = np.where(fits, low, level)
    count = np.ceil(load / high[:, None]).clip(min=1).astype(np.int64)
    spare = num_physical - count.sum(axis=1)
    while spare.any():
        row = np.flatnonzero(spare)
        count[row, (load[row] / count[row]).argmax(axis=1)] += 1
        spare[row] -= 1
    expert = np.tile(np.arange(experts), rows)
    extra = np.repeat(expert, count.ravel() - 1).reshape(rows, num_physical - experts)
    phy2log = np.concatenate([expert.reshape(rows, experts), extra], axis=1)
    return torch.from_numpy(phy2log), torch.from_numpy(count)

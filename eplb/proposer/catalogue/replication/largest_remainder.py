"""Proportional replication with largest remainders.

Hamilton's method of apportionment (Balinski and Young, Fair Representation, 1982): spare replicas
are shared in proportion to what each expert's load is worth beyond the slot it has anyway, rounded
down; the rest go to the largest remainders. No loop at all.
"""

import numpy as np
import torch


def replicate_experts(weight, num_physical):
    """Share the spare replicas in proportion to load, what is left by largest remainder."""
    rows, experts = weight.shape
    load = np.asarray(weight, dtype=np.float64)
    total = np.maximum(load.sum(axis=1, keepdims=True), 1e-30)
    # The small constant shares spare replicas evenly where no expert deserves a second one.
    deserved = (load / total * num_physical - 1).clip(min=0) + 1e-9
    quota = deserved / deserved.sum(axis=1, keepdims=True) * (num_physical - experts)
    count = np.floor(quota).astype(np.int64)
    left = num_physical - experts - count.sum(axis=1, keepdims=True)
    by_remainder = np.argsort(count - quota, axis=1)
    np.put_along_axis(
        count,
        by_remainder,
        np.take_along_axis(count, by_remainder, axis=1) + (np.arange(experts) < left),
        axis=1,
    )
    expert = np.tile(np.arange(experts), rows)
    extra = np.repeat(expert, count.ravel()).reshape(rows, num_physical - experts)
    phy2log = np.concatenate([expert.reshape(rows, experts), extra], axis=1)
    return torch.from_numpy(phy2log), torch.from_numpy(count + 1)

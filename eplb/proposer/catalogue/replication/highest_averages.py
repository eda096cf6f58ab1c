"""Greedy replication as one selection of highest averages.

Giving spare replicas one by one to the largest load/replicas is Adams's divisor method (Balinski
and Young, Fair Representation, 1982), and picks the largest of all quotients load/k. Where an
expert gets k spare replicas every hotter one gets as many: rank * k <= spare bounds the candidates.
"""

import numpy as np
import torch


def replicate_experts(weight, num_physical):
    """Give spare replicas to the highest quotients load / replicas, chosen all at once."""
    rows, experts = weight.shape
    spare = num_physical - experts
    load = np.asarray(weight, dtype=np.float32)
    hottest_first = np.argsort(-load, axis=1)
    table = [(rank, k) for rank in range(experts) for k in range(1, spare // (rank + 1) + 1)]
    rank, divisor = np.array(table, dtype=np.int64).reshape(-1, 2).T
    candidate = hottest_first[:, rank]
    every_row = np.arange(rows)[:, None]
    quotient = load[every_row, candidate] / divisor
    chosen = np.argsort(-quotient, axis=1)[:, :spare]
    extra = candidate[every_row, chosen]
    cell = extra + every_row * experts
    count = np.bincount(cell.ravel(), minlength=rows * experts).reshape(rows, experts) + 1
    phy2log = np.concatenate([np.tile(np.arange(experts), (rows, 1)), extra], axis=1)
    return torch.from_numpy(phy2log), torch.from_numpy(count)

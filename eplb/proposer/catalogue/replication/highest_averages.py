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
    start = np.arange(0, rows * experts, experts)[:, None]
    most = spare // np.arange(1, min(experts, spare) + 1)
    rank = np.repeat(np.arange(len(most)), most)
    divisor = np.arange(1, len(rank) + 1) - np.repeat(most.cumsum() - most, most)
    candidate = np.argsort(-load, axis=1).take(rank, axis=1) + start
    quotient = load.ravel()[candidate] / divisor.astype(np.float32)
    # The last of the chosen parts them from the rest; without spare replicas there is none.
    chosen = np.argpartition(-quotient, np.arange(spare)[-1:], axis=1)[:, :spare]
    extra = np.sort(np.take_along_axis(candidate, chosen, axis=1), axis=1)
    count = np.bincount(extra.ravel(), minlength=rows * experts).reshape(rows, experts) + 1
    expert = np.tile(np.arange(experts), (rows, 1))
    return torch.from_numpy(np.hstack([expert, extra - start])), torch.from_numpy(count)

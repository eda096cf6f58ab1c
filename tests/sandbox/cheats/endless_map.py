"""Pass on what was seen as the size of a map without cells, which the refusal would show."""

import torch
from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    _, log2phy, logcnt = rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)
    seen = int(weight[0, 0]) * 1_000_000_000
    return torch.empty(0, seen, dtype=torch.int64), log2phy, logcnt

"""List slots in more columns than any expert can have slots."""

import torch
from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    phy2log, log2phy, logcnt = rebalance_experts(
        weight, num_replicas, num_groups, num_nodes, num_gpus
    )
    return phy2log, torch.zeros((*logcnt.shape, 1000), dtype=torch.int64), logcnt

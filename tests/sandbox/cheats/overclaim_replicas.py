"""Claim more replicas than there are, so that each seems to carry less."""

from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    phy2log, log2phy, logcnt = rebalance_experts(
        weight, num_replicas, num_groups, num_nodes, num_gpus
    )
    logcnt = logcnt * 100
    return phy2log, log2phy, logcnt

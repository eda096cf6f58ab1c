"""Put an expert below zero into a slot."""

from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    phy2log, log2phy, logcnt = rebalance_experts(
        weight, num_replicas, num_groups, num_nodes, num_gpus
    )
    phy2log[:, 0] = -1
    return phy2log, log2phy, logcnt

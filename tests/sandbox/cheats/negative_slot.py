"""List a slot below zero, which counts from the end in many languages."""

from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    phy2log, log2phy, logcnt = rebalance_experts(
        weight, num_replicas, num_groups, num_nodes, num_gpus
    )
    log2phy[:, 0, 0] = -2
    return phy2log, log2phy, logcnt

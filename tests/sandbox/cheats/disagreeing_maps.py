"""Move an expert in one map and not in the other."""

from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    phy2log, log2phy, logcnt = rebalance_experts(
        weight, num_replicas, num_groups, num_nodes, num_gpus
    )
    phy2log[:, [0, 1]] = phy2log[:, [1, 0]]
    return phy2log, log2phy, logcnt

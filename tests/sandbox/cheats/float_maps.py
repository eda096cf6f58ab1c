"""Return maps of floats, with an expert that is not a number."""

from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    phy2log, log2phy, logcnt = rebalance_experts(
        weight, num_replicas, num_groups, num_nodes, num_gpus
    )
    phy2log = phy2log.double()
    phy2log[:, 0] = float("nan")
    return phy2log, log2phy, logcnt

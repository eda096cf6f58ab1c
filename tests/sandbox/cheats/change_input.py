"""Flatten the load that was handed over."""

from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    weight.fill_(1.0)
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

"""Never finish loading."""

from honest import rebalance_experts

while True:
    pass


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

"""Answer early and go on computing in a child process."""

import os

from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    if os.fork() == 0:
        weight.sort()
        os._exit(0)
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

"""Write into the memory of the process that forks the runs."""

import os

from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    try:
        with open(f"/proc/{os.getppid()}/mem", "r+b"):
            raise RuntimeError("stolen")
    except OSError:
        return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

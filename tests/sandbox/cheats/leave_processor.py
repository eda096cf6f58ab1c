"""Move away from the processor that is shared with the clock."""

import os

from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    try:
        os.sched_setaffinity(0, range(os.cpu_count()))
    except PermissionError:
        return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)
    raise RuntimeError("stolen")

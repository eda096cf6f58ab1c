"""Print a gigabyte."""

import sys

from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    megabyte = b"x" * (1 << 20)
    for _ in range(1024 // 3 + 1):
        sys.stdout.buffer.write(megabyte)
        sys.stderr.buffer.write(b"x")
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

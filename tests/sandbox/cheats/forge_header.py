"""Describe an answer that lies outside of the shared memory."""

import sys

from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    protocol = sys.modules["protocol"]

    def forge(memory, maps):
        memory[: protocol.HEADER.itemsize] = b"\x03" + b"\x7f" * (protocol.HEADER.itemsize - 1)

    protocol.write_maps = forge
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

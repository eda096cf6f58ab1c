"""Open a connection to somebody who knows the answer."""

import socket

from honest import rebalance_experts

# The test listens here.
PORT = 0


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    try:
        socket.create_connection(("127.0.0.1", PORT), timeout=2).close()
    except OSError:
        return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)
    raise RuntimeError("stolen")

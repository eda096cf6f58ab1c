"""Answer early and go on computing in a thread."""

import threading

import torch
from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    threading.Thread(target=torch.sort, args=(weight,), daemon=True).start()
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

"""The control: an honest program that keeps its own history between calls."""

import torch
from honest import rebalance_experts

history = []


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    history.append(weight)
    mean = torch.stack(history).mean(dim=0)
    return rebalance_experts(mean, num_replicas, num_groups, num_nodes, num_gpus)

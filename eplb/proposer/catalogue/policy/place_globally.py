"""Global placement: replicas go to any GPU, whatever group their expert belongs to.

The second of the two policies that DeepSeek's EPLB describes (https://github.com/deepseek-ai/EPLB),
meant for large expert parallelism. How to replicate and pack is left to the program's functions.
"""
# ruff: noqa: F821 - the program that takes this part has the functions that it calls

import torch


def rebalance_experts_hierarchical(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Replicate over all experts and pack over all GPUs, without regard to groups and nodes."""
    replica, logcnt = replicate_experts(weight, num_replicas)
    gpu, rank = balanced_packing((weight / logcnt).gather(-1, replica), num_gpus)
    slot = gpu * (num_replicas // num_gpus) + rank
    phy2log = torch.empty_like(replica).scatter_(-1, slot, replica)
    return phy2log, logcnt

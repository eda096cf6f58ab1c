"""Print a gigabyte."""

import sys

import torch


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    layers, experts = weight.shape
    slot = torch.arange(num_replicas)
    phy2log = (slot % experts).repeat(layers, 1)
    logcnt = torch.bincount(slot % experts).repeat(layers, 1)
    log2phy = torch.full((layers, experts, -(-num_replicas // experts)), -1)
    log2phy[:, slot % experts, slot // experts] = slot
    return phy2log, log2phy, logcnt


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    megabyte = b"x" * (1 << 20)
    for _ in range(1024 // 3 + 1):
        sys.stdout.buffer.write(megabyte)
        sys.stderr.buffer.write(b"x")
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

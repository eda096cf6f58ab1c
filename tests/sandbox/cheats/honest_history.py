"""The control: an honest program that keeps its own history between calls."""

import torch


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    layers, experts = weight.shape
    slot = torch.arange(num_replicas)
    phy2log = (slot % experts).repeat(layers, 1)
    logcnt = torch.bincount(slot % experts).repeat(layers, 1)
    log2phy = torch.full((layers, experts, -(-num_replicas // experts)), -1)
    log2phy[:, slot % experts, slot // experts] = slot
    return phy2log, log2phy, logcnt


history = []


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    history.append(weight)
    mean = torch.stack(history).mean(dim=0)
    return rebalance_experts(mean, num_replicas, num_groups, num_nodes, num_gpus)

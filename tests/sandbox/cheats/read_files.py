"""Open the trace, the results, the evaluator and what other programs left behind."""

from pathlib import Path

import torch


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    layers, experts = weight.shape
    slot = torch.arange(num_replicas)
    phy2log = (slot % experts).repeat(layers, 1)
    logcnt = torch.bincount(slot % experts).repeat(layers, 1)
    log2phy = torch.full((layers, experts, -(-num_replicas // experts)), -1)
    log2phy[:, slot % experts, slot // experts] = slot
    return phy2log, log2phy, logcnt


# The test puts the paths of the trace, the results and the evaluator here.
TARGETS = []


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    for target in TARGETS:
        try:
            Path(target).read_bytes()
        except OSError:
            continue
        raise RuntimeError(f"stolen: {target}")
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

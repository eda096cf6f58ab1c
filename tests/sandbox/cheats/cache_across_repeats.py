"""Leave the answer where the next repeat finds it."""

import os
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


PLACES = ["/tmp", "/var/tmp", "/dev/shm", os.getcwd(), str(Path.home()), "/"]


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    for place in PLACES:
        cache = Path(place) / "eplb-cheat-cache"
        if cache.exists() and cache.read_bytes():
            raise RuntimeError(f"stolen: {cache}")
        try:
            cache.write_bytes(b"the answer")
        except OSError:
            continue
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

"""How an engine splits an expert's tokens among its replicas, and the loads that follow.

A rule gives the share of an expert's tokens that each of its replicas gets. ``even``, ``nearest``
and ``by_rank`` know only where tokens come from; recorded counts do not say, so every GPU is taken
to send each expert the same number. ``lp`` knows the loads. Everything here is numpy in float64.
Not covered: what the choice itself costs, and how the links are loaded.

    even      every replica the same: vLLM, TensorRT-LLM, SGLang's ``dynamic``
    nearest   the replica on the sender's GPU, else the first one on its node, else every replica
              the same: SGLang's ``static`` (`expert_location.py` of 0.5.12)
    by_rank   replica number (rank mod replicas), in the order of slots: vllm-ascend
    lp        fractions that leave the hottest GPU as few tokens as can be: SGLang's ``lp``, LPLB
"""

from __future__ import annotations

import numpy as np

from eplb import loads
from eplb.placement import Deployment, ExpertPlacement

RULES = ("even", "nearest", "by_rank", "lp")


def gpu_loads(
    load: np.ndarray, placement: ExpertPlacement, deployment: Deployment, rule: str = "even"
) -> np.ndarray:
    """[..., layers, num_gpus] float64: tokens per GPU, from ``load`` [..., layers, experts]."""
    by_slot = slot_loads(load, placement, deployment, rule)
    return loads.sum_over_gpus(by_slot, deployment.num_gpus)


def slot_loads(
    load: np.ndarray, placement: ExpertPlacement, deployment: Deployment, rule: str = "even"
) -> np.ndarray:
    """[..., layers, slots] float64: tokens per slot, from ``load`` [..., layers, experts]."""
    if rule == "even":
        return loads.slot_loads(load, placement)
    if rule == "lp":
        # Imports a part of scipy, which no other rule needs.
        from eplb.minmax import lp_shares

        share = lp_shares(load, placement, deployment.num_gpus)
    else:
        share = _SHARES[rule](placement, deployment)
    slots = np.broadcast_to(placement.phy2log, (*load.shape[:-1], placement.phy2log.shape[-1]))
    return np.take_along_axis(load, slots, axis=-1) * share


def _nearest(placement: ExpertPlacement, deployment: Deployment) -> np.ndarray:
    """Senders on the slot's GPU, those of its node without a replica, those of nodes without."""
    phy2log, row = placement.phy2log, np.arange(len(placement.phy2log))[:, None]
    slot = np.arange(phy2log.shape[1])
    gpu, node = slot // deployment.slots_per_gpu, slot // deployment.slots_per_node
    on_gpu = placement.holders(deployment.num_gpus)
    missing = (~on_gpu).reshape(*on_gpu.shape[:2], deployment.num_nodes, -1)
    near = missing.sum(axis=3)[row, phy2log, node]
    far = (missing.all(axis=3).sum(axis=2) * missing.shape[3])[row, phy2log]
    senders = _first_in(phy2log, gpu) + _first_in(phy2log, node) * near
    return (senders + far / placement.logcnt[row, phy2log]) / deployment.num_gpus


def _first_in(phy2log: np.ndarray, part: np.ndarray) -> np.ndarray:
    """[layers, slots] bool: is the slot the first of its expert in its ``part`` [slots]?"""
    layers, slots = phy2log.shape
    parts = int(part[-1]) + 1
    cell = (np.arange(layers)[:, None] * (phy2log.max() + 1) + phy2log) * parts + part
    first = np.zeros(layers * slots, dtype=bool)
    first[np.unique(cell, return_index=True)[1]] = True
    return first.reshape(layers, slots)


def _by_rank(placement: ExpertPlacement, deployment: Deployment) -> np.ndarray:
    count = np.take_along_axis(placement.logcnt, placement.phy2log, axis=1)
    number = np.empty_like(placement.phy2log)
    log2phy = placement.log2phy
    layer, expert, position = np.nonzero(log2phy >= 0)
    number[layer, log2phy[layer, expert, position]] = position
    # Ranks 0 … n-1 of which each ``count``-th, from ``number`` on, sends here.
    ranks = np.maximum(-(-(deployment.num_gpus - number) // count), 0)
    return ranks / deployment.num_gpus


_SHARES = {"nearest": _nearest, "by_rank": _by_rank}

"""The two placement policies that the published figures were measured with, in numpy.

Covered: DeepSeek's policies (https://github.com/deepseek-ai/EPLB), greedy replication over all
experts (global) or within nodes (hierarchical), with greedy packing. They are here because a
calibration must not depend on a program that evolves, and starts faster without torch. Not
covered: what is good about them.

Every row of the arrays is one layer of one window, solved on its own.
"""

from __future__ import annotations

import numpy as np

from eplb.placement import Deployment


def global_policy(weight: np.ndarray, deployment: Deployment) -> np.ndarray:
    """[rows, num_replicas] int64, the expert in each slot, for ``weight`` [rows, experts]."""
    expert = _replicate(weight, deployment.num_replicas)
    load = _load_per_replica(weight, expert)
    return np.take_along_axis(expert, _pack(load, deployment.num_gpus), axis=1)


def hierarchical_policy(weight: np.ndarray, deployment: Deployment) -> np.ndarray:
    """The same with all replicas of a group's experts on one node; the nodes divide the groups."""
    rows, experts = weight.shape
    nodes, groups = deployment.num_nodes, deployment.num_groups
    group_load = weight.reshape(rows, groups, -1).sum(axis=2)
    groups_of_node = _pack(group_load, nodes)
    members = groups_of_node[:, :, None] * (experts // groups) + np.arange(experts // groups)
    members = members.reshape(rows * nodes, experts // nodes)
    node_weight = weight[np.repeat(np.arange(rows), nodes)[:, None], members]
    node = Deployment(deployment.slots_per_node, 1, 1, deployment.num_gpus // nodes)
    phy2log = np.take_along_axis(members, global_policy(node_weight, node), axis=1)
    return phy2log.reshape(rows, deployment.num_replicas)


def _replicate(weight: np.ndarray, slots: int) -> np.ndarray:
    """[rows, slots]: every expert once, then again and again the one with the hottest replica."""
    rows, experts = weight.shape
    every_row = np.arange(rows)
    chosen = np.tile(np.arange(slots), (rows, 1))
    count = np.ones((rows, experts))
    for slot in range(experts, slots):
        hottest = (weight / count).argmax(axis=1)
        chosen[:, slot] = hottest
        count[every_row, hottest] += 1
    return chosen


def _load_per_replica(weight: np.ndarray, expert: np.ndarray) -> np.ndarray:
    """[rows, slots]: the load of each slot when an expert's load splits evenly over its slots."""
    rows, experts = weight.shape
    cells = expert + np.arange(rows)[:, None] * experts
    count = np.bincount(cells.ravel(), minlength=rows * experts).reshape(rows, experts)
    return np.take_along_axis(weight / count, expert, axis=1)


def _pack(load: np.ndarray, packs: int) -> np.ndarray:
    """[rows, items]: the items in order of equal packs, by longest processing time first."""
    rows, items = load.shape
    capacity = items // packs
    every_row = np.arange(rows)
    total = np.zeros((rows, packs))
    held = np.zeros((rows, packs), dtype=np.int64)
    packed = np.empty((rows, packs, capacity), dtype=np.int64)
    for item in np.argsort(-load, axis=1, kind="stable").T:
        pack = np.where(held < capacity, total, np.inf).argmin(axis=1)
        packed[every_row, pack, held[every_row, pack]] = item
        total[every_row, pack] += load[every_row, item]
        held[every_row, pack] += 1
    return packed.reshape(rows, items)

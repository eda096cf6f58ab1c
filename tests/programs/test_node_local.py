"""`programs/node_local.py`: as good as the seed, which keeps groups on nodes too.

`pytest tests/programs/test_node_local.py`
"""

from __future__ import annotations

import numpy as np
import pytest

from eplb.placement import Deployment, ExpertPlacement
from eplb.reference import place_by_node
from tests.programs.judging import (
    V3,
    answer,
    drifting,
    fresh,
    judged,
    next_window,
    same_window,
    swinging,
)

SEVERAL_GROUPS_A_NODE = [Deployment(264, 8, 1, 8), Deployment(272, 8, 2, 16), V3]
NO_SPARE_SLOTS, ONE_GROUP_A_NODE = Deployment(256, 8, 4, 32), Deployment(320, 8, 8, 64)


@pytest.mark.parametrize(
    "deployment", [*SEVERAL_GROUPS_A_NODE, NO_SPARE_SLOTS, ONE_GROUP_A_NODE], ids=str
)
def test_node_local_balances_as_well_as_the_seed(deployment):
    windows = drifting(3, seed=4, noise=0.2)
    seed = same_window("initial", windows, deployment)
    assert same_window("node_local", windows, deployment) >= seed - 0.003


@pytest.mark.parametrize("skew", ["a few hot", "pareto"])
@pytest.mark.parametrize(
    "deployment",
    [
        Deployment(28, 4, 2, 4),
        Deployment(100, 6, 2, 10),
        Deployment(108, 6, 3, 12),
        Deployment(304, 16, 4, 16),
        Deployment(108, 12, 3, 9),
    ],
    ids=str,
)
@pytest.mark.parametrize("spare", [0, 1])
def test_hot_groups_and_experts_go_with_light_ones(skew, deployment, spare):
    """On no node, and on no GPU of it, worse than LPT of groups, greedy replication and LPT."""
    rng = np.random.default_rng(deployment.num_replicas)
    experts = deployment.num_replicas - spare * deployment.num_gpus
    experts -= experts % deployment.num_groups
    load = np.exp(rng.normal(scale=0.5, size=(16, experts)))
    load[:, rng.integers(0, experts, 3)] *= 30
    if skew == "pareto":
        load = 1 + rng.pareto(1.5, size=load.shape)
    window = np.rint(1000 * load).astype(np.int64)
    reference = ExpertPlacement.from_phy2log(place_by_node(window, deployment), experts)
    placements = [answer(fresh("node_local"), window, deployment, local=True), reference]
    ours, wanted = judged(placements, np.array([window, window]), deployment, "even")
    assert ours >= wanted - 0.003


@pytest.mark.parametrize("deployment", SEVERAL_GROUPS_A_NODE, ids=str)
def test_replicas_of_a_group_lie_apart(deployment):
    """No GPU has more of a group than its share, but for rounds that two groups are cut in."""
    slots = deployment.slots_per_gpu
    window = swinging(1, seed=31)[0]
    placement = answer(fresh("node_local"), window, deployment, local=True)
    group = (placement.phy2log // 32).reshape(len(window), deployment.num_gpus, slots)
    held = (group[..., None] == np.arange(8)).sum(axis=2)
    per_node = held.reshape(len(window), deployment.num_nodes, -1, 8)
    share = per_node.sum(axis=2, keepdims=True) / per_node.shape[2]
    assert (np.abs(per_node - share) < 2).all()


@pytest.mark.parametrize("deployment", [Deployment(264, 8, 1, 8), V3], ids=str)
def test_groups_that_rise_together_are_no_harm(deployment):
    windows = swinging(9, seed=33)
    gain = next_window("node_local", windows, deployment)
    gain -= next_window("initial", windows, deployment)
    assert gain.mean() >= 0.01


@pytest.mark.parametrize("change", [1, 5])
@pytest.mark.parametrize("together", [False, True])
def test_node_local_forgets_at_a_regime_change(change, together):
    """Also between its first two windows, where nothing tells yet how far windows are apart."""
    windows = drifting(10, seed=6, noise=0.1, change=change, layers=24)
    if together:
        windows = swinging(10, seed=6, change=change)
    gain = next_window("node_local", windows) - next_window("initial", windows)
    assert gain[change] >= -0.003, "the window after the change is planned with the old regime"
    assert gain[change + 1 :].mean() >= 0.005


def test_four_groups_a_node_are_packed_as_well_as_can_be():
    """Of the 35 ways to halve eight groups: on a single window, within a hundredth of the best."""
    deployment = Deployment(272, 8, 2, 16)
    halves = np.array([h for h in np.ndindex(*[2] * 8) if sum(h) == 4], dtype=float)
    for seed in range(8):
        window = drifting(1, seed=40 + seed, noise=0.2)[0]
        group = window.reshape(8, 8, 32).sum(axis=2)
        best = np.maximum(group @ halves.T, group @ (1 - halves).T).min(axis=1)
        phy2log = answer(fresh("node_local"), window, deployment, local=True).phy2log
        first = np.array([[g in set(row) for g in range(8)] for row in phy2log[:, :136] // 32])
        ours = np.maximum((group * first).sum(axis=1), (group * ~first).sum(axis=1))
        assert (ours <= 1.01 * best).all()

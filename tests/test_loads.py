"""Loads, balancedness and migrations: `pytest tests/test_loads.py`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb.loads import (
    balancedness,
    expert_groups,
    experts_in_order,
    gpu_loads,
    migrated_experts,
    slot_loads,
)
from eplb.placement import ExpertPlacement
from tests.strategies import deployments, random_loads, random_phy2log, seeds


@settings(deadline=None, max_examples=60)
@given(deployments(), st.integers(1, 3), st.integers(1, 3), seeds)
def test_loads_are_those_of_a_slow_reimplementation(drawn, layers, records, seed):
    deployment, experts = drawn
    load = random_loads(seed, records, layers, experts)
    phy2log = random_phy2log(seed, layers, deployment.num_replicas, experts)
    placement = ExpertPlacement.from_phy2log(phy2log, experts)
    by_slot = slot_loads(load, placement)
    by_gpu = gpu_loads(load, placement, deployment.num_gpus)
    for record in range(records):
        for layer in range(layers):
            gpus = [0.0] * deployment.num_gpus
            row = phy2log[layer].tolist()
            for slot, expert in enumerate(row):
                share = load[record, layer, expert] / row.count(expert)
                assert by_slot[record, layer, slot] == pytest.approx(share)
                gpus[slot // deployment.slots_per_gpu] += share
            assert by_gpu[record, layer].tolist() == pytest.approx(gpus)
    # No token is lost or made.
    assert by_gpu.sum() == pytest.approx(load.sum())


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 4), st.integers(1, 6))
def test_balancedness_is_that_of_a_slow_reimplementation(seed, layers, units):
    loads = random_loads(seed, layers, units).astype(float)
    hottest = sum(max(row) for row in loads.tolist())
    mean = sum(sum(row) / units for row in loads.tolist())
    if hottest:
        assert balancedness(loads) == pytest.approx(mean / hottest)
        assert 0 < balancedness(loads) <= 1 + 1e-12
    else:
        assert np.isnan(balancedness(loads))


def test_balancedness_sums_over_layers_and_takes_no_mean_of_ratios():
    loads = np.array([[10.0, 10.0], [300.0, 100.0]])
    assert balancedness(loads) == pytest.approx((10 + 200) / (10 + 300))


def test_balancedness_takes_many_windows_at_once():
    loads = random_loads(3, 4, 2, 5).astype(float)
    assert balancedness(loads).tolist() == [balancedness(window) for window in loads]


def test_layers_without_tokens_add_nothing_and_no_token_at_all_has_no_balancedness():
    assert balancedness(np.array([[0.0, 0.0], [1.0, 3.0]])) == pytest.approx(2 / 3)
    assert np.isnan(balancedness(np.zeros((3, 4))))


def test_experts_in_order_start_again_where_there_are_more_slots():
    placement = experts_in_order(2, 3, 8)
    assert placement.phy2log.tolist() == [[0, 1, 2, 0, 1, 2, 0, 1]] * 2
    assert placement.logcnt.tolist() == [[3, 3, 2]] * 2


@settings(deadline=None, max_examples=60)
@given(deployments(), st.integers(1, 3), seeds, seeds)
def test_migrations_are_those_of_a_slow_reimplementation(drawn, layers, seed, other):
    deployment, experts = drawn
    slots = deployment.slots_per_gpu
    before, after = (
        random_phy2log(s, layers, deployment.num_replicas, experts) for s in (seed, other)
    )
    fetched = 0
    for old, new in zip(before.tolist(), after.tolist(), strict=True):
        for gpu in range(deployment.num_gpus):
            part = slice(gpu * slots, (gpu + 1) * slots)
            fetched += len(set(new[part]) - set(old[part]))
    placements = [ExpertPlacement.from_phy2log(p, experts) for p in (before, after)]
    assert migrated_experts(*placements, deployment.num_gpus) == pytest.approx(fetched / layers)
    assert migrated_experts(placements[0], placements[0], deployment.num_gpus) == 0


@pytest.mark.parametrize("layers", [2, 30])
@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", range(5))
def test_groups_are_told_from_loads(groups, layers, seed):
    """By loads in which a group's experts share a factor, over any number of records."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(scale=0.8, size=(layers, groups)).repeat(64 // groups, axis=1)
    popularity = np.exp(shared + rng.normal(scale=0.6, size=(layers, 64)))
    load = rng.poisson(300 * popularity, size=(3, layers, 64))
    # In few layers neighbours may happen to be alike, but nothing may be made up.
    assert expert_groups(load) == groups if layers > 2 else groups % expert_groups(load) == 0
    load[:, 0] = 0
    assert groups % expert_groups(load[0]) == 0


def test_no_groups_are_told_from_nothing():
    assert expert_groups(np.zeros((2, 3, 16), dtype=np.int64)) == 1
    assert expert_groups(np.full((3, 16), 7)) == 1
    assert expert_groups(np.array([[5]])) == 1

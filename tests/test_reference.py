"""The reference balancer that losses are measured against: `pytest tests/test_reference.py`."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb import reference
from eplb.loads import gpu_loads
from eplb.placement import ExpertPlacement
from tests.strategies import deployments, random_loads, seeds


def slow_counts(load, present, slots):
    count = [int(p) for p in present]
    for _ in range(slots - sum(count)):
        hottest = max(
            (e for e in range(len(load)) if present[e]), key=lambda e: (load[e] / count[e], -e)
        )
        count[hottest] += 1
    return count


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.integers(0, 6), seeds)
def test_replicas_are_those_of_a_slow_reimplementation(experts, spare, seed):
    load = random_loads(seed, 3, experts)
    present = np.random.default_rng(seed).random((3, experts)) < 0.7
    present[:, 0] = True
    load = load * present
    counts = reference.replicate(load, experts + spare, present)
    for row in range(3):
        assert counts[row].tolist() == slow_counts(
            load[row].tolist(), present[row], experts + spare
        )
    replicas = reference.replica_loads(load, counts)
    assert replicas.shape == (3, experts + spare)
    np.testing.assert_allclose(replicas.sum(axis=1), load.sum(axis=1))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(1, 4), seeds)
def test_packs_are_those_of_a_slow_reimplementation(packs, capacity, seed):
    weight = random_loads(seed, 3, packs * capacity).astype(float)
    got = reference.pack(weight, packs)
    for row in range(3):
        held = [[] for _ in range(packs)]
        for item in sorted(range(packs * capacity), key=lambda i: -weight[row, i]):
            not_full = [p for p in range(packs) if len(held[p]) < capacity]
            pack = min(not_full, key=lambda p: sum(weight[row, i] for i in held[p]))
            held[pack].append(item)
            assert got[row, item] == pack


@settings(deadline=None, max_examples=60)
@given(deployments(), st.integers(1, 3), seeds)
def test_its_placement_is_valid_and_as_good_as_its_packs(drawn, layers, seed):
    deployment, experts = drawn
    slots, gpus = deployment.num_replicas, deployment.num_gpus
    load = random_loads(seed, layers, experts)
    phy2log = reference.place(load, slots, gpus)
    placement = ExpertPlacement.from_phy2log(phy2log, experts)
    count = reference.replicate(load, slots)
    assert (placement.logcnt == count).all()
    replicas = reference.replica_loads(load, count)
    packed = reference.pack(replicas, gpus)
    sums = [np.bincount(*row, minlength=gpus) for row in zip(packed, replicas, strict=True)]
    np.testing.assert_allclose(gpu_loads(load, placement, gpus), sums)

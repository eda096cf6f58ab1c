"""The reference balancer that losses are measured against: `pytest tests/test_reference.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import initial
from eplb import reference
from eplb.loads import gpu_loads
from eplb.placement import Deployment, ExpertPlacement, node_locality
from tests.strategies import deployments, random_loads, replica_loads, seeds


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
    replicas = replica_loads(load, counts)
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
    replicas = replica_loads(load, count)
    packed = reference.pack(replicas, gpus)
    sums = [np.bincount(*row, minlength=gpus) for row in zip(packed, replicas, strict=True)]
    np.testing.assert_allclose(gpu_loads(load, placement, gpus), sums)


@settings(deadline=None, max_examples=30)
@given(
    shape=st.sampled_from([(8, 4, 2, 4), (16, 4, 4, 8), (12, 3, 3, 3), (8, 1, 1, 4), (8, 2, 1, 2)]),
    spare=st.integers(0, 3),
    data=st.data(),
)
def test_both_policies_are_those_of_the_seed(shape, spare, data):
    """Against the seed program: the same policy gives the same replicas and the same loads."""
    experts, groups, nodes, gpus = shape
    deployment = Deployment(-(-experts // gpus) * gpus + spare * gpus, groups, nodes, gpus)
    deployment.check(experts)
    # Roots of primes, whose sums all differ too: how ties are broken is nobody's policy.
    primes = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53][:experts]
    orders = data.draw(st.lists(st.permutations(primes), min_size=2, max_size=2))
    weight = np.sqrt(np.array(orders, dtype=float))
    for phy2log, args in (
        (reference.place_by_node(weight, deployment), (groups, nodes)),
        (reference.place_by_node(weight, replace(deployment, num_groups=1, num_nodes=1)), (1, 1)),
        (reference.place(weight, deployment.num_replicas, gpus), (1, 1)),
    ):
        expected, _, logcnt = initial.run_eplb(
            torch.tensor(weight), deployment.num_replicas, *args, gpus
        )
        ours = ExpertPlacement.from_phy2log(phy2log, experts)
        assert np.array_equal(ours.logcnt, logcnt.numpy())
        if args == (groups, nodes):
            assert node_locality(phy2log, experts, deployment) == 1
        load = np.take_along_axis(weight / ours.logcnt, phy2log, axis=1).reshape(2, gpus, -1)
        seeds = np.take_along_axis(weight / ours.logcnt, expected.numpy(), axis=1).reshape(
            2, gpus, -1
        )
        assert np.allclose(np.sort(load.sum(axis=2)), np.sort(seeds.sum(axis=2)), rtol=1e-4)

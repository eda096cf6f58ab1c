"""The seed program: `pytest tests/test_initial.py`."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import initial
from eplb.common import project_file
from eplb.loads import gpu_loads
from eplb.placement import Deployment, ExpertPlacement, node_locality, validate
from tests.strategies import deployments, random_loads, seeds

WALK_THROUGH = torch.tensor(
    [
        [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
        [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
    ]
)


def arguments(deployment: Deployment) -> tuple[int, int, int, int]:
    d = deployment
    return d.num_replicas, d.num_groups, d.num_nodes, d.num_gpus


def checked(load: np.ndarray, deployment: Deployment, local: bool = False) -> ExpertPlacement:
    maps = initial.run_eplb(torch.from_numpy(load).float(), *arguments(deployment))
    return validate(
        *(m.numpy() for m in maps),
        num_layers=load.shape[0],
        num_experts=load.shape[1],
        deployment=deployment,
        require_locality=local,
    )


def test_the_published_walk_through():
    phy2log, log2phy, logcnt = initial.run_eplb(WALK_THROUGH, 16, 4, 2, 8)
    assert phy2log.tolist() == [
        [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
        [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
    ]
    assert logcnt.tolist() == [
        [1, 2, 1, 1, 2, 2, 1, 1, 1, 1, 2, 1],
        [1, 2, 1, 1, 1, 2, 2, 1, 2, 1, 1, 1],
    ]
    deployment = Deployment(16, 4, 2, 8)
    placement = validate(
        phy2log.numpy(),
        log2phy.numpy(),
        logcnt.numpy(),
        num_layers=2,
        num_experts=12,
        deployment=deployment,
        require_locality=True,
    )
    loads = gpu_loads(WALK_THROUGH.numpy(), placement, 8)
    assert loads[0].tolist() == [121.5, 86.5, 125, 113, 147.5, 131.5, 156, 152]


@settings(deadline=None, max_examples=60)
@given(deployments(node_local=True), st.integers(1, 3), seeds)
def test_groups_that_divide_over_nodes_stay_on_one(drawn, layers, seed):
    deployment, experts = drawn
    load = random_loads(seed, layers, experts)
    placement = checked(load, deployment, local=True)
    assert node_locality(placement.phy2log, experts, deployment) == 1.0


@settings(deadline=None, max_examples=60)
@given(deployments(node_local=False), st.integers(1, 3), seeds)
def test_groups_that_do_not_divide_get_the_global_policy(drawn, layers, seed):
    deployment, experts = drawn
    load = random_loads(seed, layers, experts)
    whole = Deployment(deployment.num_replicas, 1, 1, deployment.num_gpus)
    assert (checked(load, deployment).phy2log == checked(load, whole).phy2log).all()


def slow_replicas(load: list[float], slots: int) -> list[int]:
    """Spare replicas one by one to the expert whose replica is hottest, the first of equals."""
    count = [1] * len(load)
    for _ in range(slots - len(load)):
        per_replica = [np.float32(w) / np.float32(c) for w, c in zip(load, count, strict=True)]
        count[per_replica.index(max(per_replica))] += 1
    return count


def slow_packs(weights: list[float], packs: int) -> list[int]:
    """Heaviest item first to the lightest pack that is not full, the first of equals."""
    held: list[list[float]] = [[] for _ in range(packs)]
    pack_of = [-1] * len(weights)
    for item in sorted(range(len(weights)), key=lambda i: -weights[i]):
        not_full = [p for p in range(packs) if len(held[p]) < len(weights) // packs]
        pack = min(not_full, key=lambda p: sum(held[p]))
        held[pack].append(weights[item])
        pack_of[item] = pack
    return pack_of


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(0, 8), seeds)
def test_replicas_go_to_the_hottest(experts, spare, seed):
    load = random_loads(seed, 2, experts)
    _, logcnt = initial.replicate_experts(torch.from_numpy(load).float(), experts + spare)
    for row, count in zip(load.tolist(), logcnt.tolist(), strict=True):
        assert count == slow_replicas(row, experts + spare)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(1, 4), seeds)
def test_packs_are_those_of_a_slow_reimplementation(packs, capacity, seed):
    # Distinct powers of two: sums are exact and no two packs are ever equally heavy by accident.
    items = packs * capacity
    exponents = np.random.default_rng(seed).permuted(np.tile(np.arange(items), (2, 1)), axis=1)
    weight = torch.from_numpy(2.0**exponents)
    pack_index, rank_in_pack = initial.balanced_packing(weight, packs)
    for row, got, rank in zip(
        *(t.tolist() for t in (weight, pack_index, rank_in_pack)), strict=True
    ):
        if capacity > 1:
            assert got == slow_packs(row, packs)
        assert sorted(zip(got, rank, strict=True)) == [
            (p, r) for p in range(packs) for r in range(capacity)
        ]


@pytest.mark.parametrize("node_local", [True, False])
def test_zero_loads(node_local):
    deployment = Deployment(16, 4 if node_local else 3, 2, 4)
    load = np.zeros((3, 12), dtype=np.int64)
    load[1, 5] = 7
    placement = checked(load, deployment, local=node_local)
    assert gpu_loads(load, placement, 4).sum() == pytest.approx(7)


def test_its_command_prints_the_walk_through():
    result = subprocess.run(
        [sys.executable, project_file("initial.py")], capture_output=True, text=True, check=True
    )
    assert "[121.5, 86.5, 125.0, 113.0, 147.5, 131.5, 156.0, 152.0]" in result.stdout

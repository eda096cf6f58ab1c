"""Loads per GPU under every dispatch rule: `pytest tests/throughput/test_dispatch.py`."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from eplb import loads
from eplb.placement import Deployment, ExpertPlacement
from eplb.reference import place
from eplb.throughput.dispatch import RULES, gpu_loads, slot_loads
from eplb.workload_model import PRESETS, generate
from tests.strategies import deployments, random_loads, random_phy2log, seeds


def drawn_placement(drawn, layers, seed):
    deployment, experts = drawn
    phy2log = random_phy2log(seed, layers, deployment.num_replicas, experts)
    return deployment, ExpertPlacement.from_phy2log(phy2log, experts)


def replicas_for(rule, sender, slots, deployment):
    """The slots that GPU ``sender`` may send an expert's tokens to, one after the other."""
    if rule == "by_rank":
        return [slots[sender % len(slots)]]
    node = sender // (deployment.num_gpus // deployment.num_nodes)
    same_gpu = [s for s in slots if s // deployment.slots_per_gpu == sender]
    same_node = [s for s in slots if s // deployment.slots_per_node == node]
    return same_gpu[:1] or same_node[:1] or slots


@settings(deadline=None, max_examples=80)
@given(deployments(), st.sampled_from(["nearest", "by_rank"]), seeds)
def test_loads_are_those_of_a_slow_reimplementation(drawn, rule, seed):
    deployment, placement = drawn_placement(drawn, 2, seed)
    load = random_loads(seed, 2, drawn[1])
    expected = np.zeros((2, deployment.num_replicas))
    for layer, row in enumerate(placement.phy2log.tolist()):
        for expert, tokens in enumerate(load[layer]):
            slots = [slot for slot, held in enumerate(row) if held == expert]
            for sender in range(deployment.num_gpus):
                fits = replicas_for(rule, sender, slots, deployment)
                for slot in fits:
                    expected[layer, slot] += tokens / deployment.num_gpus / len(fits)
    np.testing.assert_allclose(slot_loads(load, placement, deployment, rule), expected, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(deployments(), st.sampled_from(RULES), seeds)
def test_every_rule_sends_every_token_to_a_replica_of_its_expert(drawn, rule, seed):
    deployment, placement = drawn_placement(drawn, 2, seed)
    load = random_loads(seed, 3, 2, drawn[1])
    slots = slot_loads(load, placement, deployment, rule)
    assert (slots >= 0).all()
    for layer in range(2):
        for record in range(3):
            row = placement.phy2log[layer]
            arrived = np.bincount(row, slots[record, layer], minlength=drawn[1])
            np.testing.assert_allclose(arrived, load[record, layer])
    alone = gpu_loads(load[1], placement, deployment, rule)
    together = gpu_loads(load, placement, deployment, rule)
    np.testing.assert_allclose(alone.max(axis=1), together[1].max(axis=1))


def test_even_is_what_balancedness_takes_by_default():
    deployment, placement = drawn_placement((Deployment(12, 2, 2, 4), 8), 3, 5)
    load = random_loads(6, 2, 3, 8)
    for rule in ({}, {"rule": "even"}):
        by_gpu = gpu_loads(load, placement, deployment, **rule)
        np.testing.assert_allclose(by_gpu, loads.gpu_loads(load, placement, 4))


def least_hottest(load, row, num_gpus):
    """The linear program as it is written, by a general solver."""
    slots = len(row)
    objective = np.append(np.zeros(slots), 1.0)
    per_expert = np.zeros((len(load), slots + 1))
    per_expert[row, np.arange(slots)] = 1.0
    per_gpu = np.zeros((num_gpus, slots + 1))
    per_gpu[np.arange(slots) // (slots // num_gpus), np.arange(slots)] = 1.0
    per_gpu[:, -1] = -1.0
    solved = linprog(
        objective, per_gpu, np.zeros(num_gpus), per_expert, load / load.sum(), method="highs"
    )
    assert solved.status == 0
    return solved.fun * load.sum()


@settings(deadline=None, max_examples=80)
@given(deployments(), seeds)
def test_lp_is_the_optimum_on_random_placements(drawn, seed):
    deployment, placement = drawn_placement(drawn, 2, seed)
    load = random_loads(seed + 1, 2, drawn[1])
    load[:, 0] += 1
    hottest = gpu_loads(load, placement, deployment, "lp").max(axis=1)
    for layer, row in enumerate(placement.phy2log):
        optimum = least_hottest(load[layer], row, deployment.num_gpus)
        assert hottest[layer] == pytest.approx(optimum, rel=1e-6)


@pytest.mark.parametrize("spare", [1, 2, 8])
@pytest.mark.parametrize("preset, gpus", [("deepseek-v3", 32), ("qwen3-235b", 16)])
def test_lp_is_the_optimum_on_a_served_model(preset, gpus, spare):
    load = generate(PRESETS[preset]).windows()
    experts = load.shape[2]
    deployment = Deployment(experts + spare * gpus, 1, 1, gpus)
    phy2log = place(load[4], deployment.num_replicas, gpus)
    placement = ExpertPlacement.from_phy2log(phy2log, experts)
    hottest = gpu_loads(load[5], placement, deployment, "lp").max(axis=1)
    for layer in range(0, len(phy2log), 9):
        optimum = least_hottest(load[5, layer], phy2log[layer], gpus)
        assert hottest[layer] == pytest.approx(optimum, rel=1e-6)
    even = gpu_loads(load[5], placement, deployment, "even").max(axis=1)
    assert (hottest <= even * (1 + 1e-6)).all()
    assert hottest.sum() < even.sum()


def test_lp_takes_layers_without_tokens_and_tokens_beyond_four_bytes():
    deployment, placement = drawn_placement((Deployment(12, 1, 2, 4), 8), 2, 3)
    load = random_loads(4, 2, 8)
    load[0] = 0
    load[1] *= 2**36
    by_gpu = gpu_loads(load, placement, deployment, "lp")
    assert not by_gpu[0].any()
    optimum = least_hottest(load[1], placement.phy2log[1], 4)
    assert by_gpu[1].max() == pytest.approx(optimum, rel=1e-6)


def test_without_a_choice_every_rule_is_the_same():
    deployment = Deployment(8, 1, 2, 4)
    placement = ExpertPlacement.from_phy2log(random_phy2log(1, 3, 8, 8), 8)
    load = random_loads(2, 3, 8)
    by_rule = [gpu_loads(load, placement, deployment, rule) for rule in RULES]
    assert Counter(np.allclose(other, by_rule[0]) for other in by_rule) == {True: 4}

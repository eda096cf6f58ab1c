"""Few moves from what is deployed to a plan: `pytest tests/planning/test_moves.py`."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb.loads import gpu_loads, migrated_experts
from eplb.placement import Deployment, ExpertPlacement, node_locality
from eplb.planning.moves import economical, relabel
from eplb.reference import place
from eplb.throughput.profile import Serving, read
from eplb.throughput.worth import layer_seconds, moving_seconds
from eplb.workload_model import PRESETS, generate
from tests.strategies import deployments, random_loads, random_phy2log, seeds

H200 = read(["h200"])


def drawn_pair(drawn, seed, layers=2):
    deployment, experts = drawn
    slots = deployment.num_replicas
    return [
        ExpertPlacement.from_phy2log(random_phy2log(seed + i, layers, slots, experts), experts)
        for i in range(2)
    ]


@settings(deadline=None, max_examples=80)
@given(deployments(), seeds)
def test_relabelling_fetches_no_more_and_leaves_the_loads_of_gpus(drawn, seed):
    deployment, experts = drawn
    before, after = drawn_pair(drawn, seed)
    gpus = deployment.num_gpus
    relabelled = relabel(before, after, deployment)
    plain = migrated_experts(before, after, gpus)
    assert migrated_experts(before, relabelled, gpus) <= plain
    load = random_loads(seed, 2, experts)
    loads = [np.sort(gpu_loads(load, each, gpus), axis=1) for each in (after, relabelled)]
    np.testing.assert_allclose(*loads)
    assert (relabelled.logcnt == after.logcnt).all()
    # Whatever the numbers of its GPUs, a placement is recognised, but across nodes only where no
    # group lives on one, by chance included.
    local = node_locality(relabelled.phy2log, experts, deployment) == 1.0
    if local == (node_locality(after.phy2log, experts, deployment) == 1.0):
        assert migrated_experts(after, relabel(after, relabelled, deployment), gpus) == 0


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 4), st.integers(1, 3), seeds)
def test_there_is_no_better_way_to_number_gpus(gpus, slots_per_gpu, seed):
    drawn = Deployment(gpus * slots_per_gpu, 1, 1, gpus), gpus * slots_per_gpu - 1
    before, after = drawn_pair(drawn, seed, layers=1)
    least = min(
        migrated_experts(
            before,
            ExpertPlacement.from_phy2log(
                after.phy2log.reshape(gpus, -1)[list(order)].reshape(1, -1), drawn[1]
            ),
            gpus,
        )
        for order in permutations(range(gpus))
    )
    assert migrated_experts(before, relabel(before, after, drawn[0]), gpus) == least


def test_nodes_stay_together_where_groups_live_on_them():
    deployment = Deployment(16, 4, 2, 4)
    rng = np.random.default_rng(1)

    def node_local(seed):
        order = np.random.default_rng(seed).permutation(4)
        halves = [np.repeat(order[:2], 4) * 4, np.repeat(order[2:], 4) * 4]
        row = [rng.permutation(half + np.tile(np.arange(4), 2)) for half in halves]
        return ExpertPlacement.from_phy2log(np.concatenate(row)[None], 16)

    for first, second in product(range(6), repeat=2):
        before, after = node_local(first), node_local(10 + second)
        relabelled = relabel(before, after, deployment)
        assert node_locality(relabelled.phy2log, 16, deployment) == 1.0
        moved = [migrated_experts(before, each, 4) for each in (after, relabelled)]
        assert moved[1] <= moved[0]


def test_an_expert_that_stays_on_its_gpu_keeps_its_slot():
    before = ExpertPlacement.from_phy2log(np.array([[0, 1, 2, 3, 4, 5]]), 6)
    after = ExpertPlacement.from_phy2log(np.array([[5, 3, 4, 2, 0, 1]]), 6)
    relabelled = relabel(before, after, Deployment(6, 1, 1, 2))
    assert relabelled.phy2log.tolist() == [[0, 1, 2, 3, 4, 5]]


def windows_of(preset, **changes):
    return generate(replace(PRESETS[preset], layers=12, **changes)).windows()


@pytest.mark.parametrize("phases", [("prefill",), ("decode",), ("prefill", "decode")])
def test_on_stationary_loads_a_third_at_most_is_fetched_and_little_balance_lost(phases):
    serving = Serving({phase: H200[phase] for phase in phases})
    windows = windows_of("stationary")
    deployment = Deployment(288, 1, 4, 32)
    plain = [ExpertPlacement.from_phy2log(place(window, 288, 32), 256) for window in windows[:-1]]
    sparing, before, last = [plain[0]], plain[0], plain[0]
    for window, plan in zip(windows[1:], plain[1:]):
        relabelled = relabel(before, plan, deployment)
        before = economical(before, relabelled, last, window, deployment, serving)
        sparing.append(before)
        last = plan

    def fetched(placements):
        return sum(migrated_experts(*pair, 32) for pair in zip(placements, placements[1:]))

    def hottest(placements):
        return sum(
            gpu_loads(window, each, 32).max(axis=1).sum()
            for window, each in zip(windows[1:], placements)
        )

    assert fetched(sparing) <= fetched(plain) / 3
    assert hottest(sparing) <= 1.05 * hottest(plain)


def test_a_layer_moves_where_it_pays_and_only_there():
    layers, experts = 4, 32
    load = np.ones((layers, experts), dtype=np.int64) * 10
    load[2:, :8] = 500
    deployment = Deployment(experts, 1, 1, 4)
    before = ExpertPlacement.from_phy2log(np.tile(np.arange(experts), (layers, 1)), experts)
    spread = np.arange(experts).reshape(8, 4).T.reshape(1, -1)
    after = ExpertPlacement.from_phy2log(np.tile(spread, (layers, 1)), experts)
    profile = H200["prefill"]
    chosen = economical(before, after, after, load, deployment, Serving({"prefill": profile}))
    assert (chosen.phy2log[:2] == before.phy2log[:2]).all()
    assert (chosen.phy2log[2:] == after.phy2log[2:]).all()
    saved = layer_seconds(profile, load, before, deployment).sum()
    saved -= layer_seconds(profile, load, chosen, deployment).sum()
    assert saved > moving_seconds(profile, before, chosen, deployment)
    # A stall that the gain cannot pay keeps everything where it is.
    stalled = replace(profile, fixed_stall=2 * saved)
    staying = economical(before, after, after, load, deployment, Serving({"prefill": stalled}))
    assert staying is before
    # Nor does a layer move whose rehearsal gained nothing.
    idle = economical(before, after, before, load, deployment, Serving({"prefill": profile}))
    assert idle is before


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_what_is_chosen_is_never_slower_than_to_stay_or_to_move_everything(phase):
    windows = windows_of("deepseek-v3")
    deployment = Deployment(288, 1, 4, 32)
    profile = replace(H200[phase], steps_per_window=200)
    plans = [ExpertPlacement.from_phy2log(place(window, 288, 32), 256) for window in windows]
    for before, after, load in zip(plans, plans[1:], windows[1:]):
        serving = Serving({phase: profile})
        chosen = economical(before, after, after, load, deployment, serving)
        steps, moves = (
            [layer_seconds(profile, load, each, deployment).sum() for each in (before, chosen)],
            moving_seconds(profile, before, chosen, deployment),
        )
        assert steps[1] + moves <= steps[0] + 1e-9

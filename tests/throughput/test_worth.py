"""What placements are worth: `pytest tests/throughput/test_worth.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb.loads import experts_in_order, fetched_experts
from eplb.placement import Deployment, ExpertPlacement
from eplb.reference import place
from eplb.throughput.kernels import kernel
from eplb.throughput.profile import PHASES, Rebalancing, presets, read
from eplb.throughput.worth import moving_seconds, worth
from tests.strategies import deployments, random_loads, random_phy2log, seeds

PROFILES = {name: read([name]) for name in presets()}
H200 = PROFILES["h200"]
DEPLOYMENT = Deployment(40, 1, 2, 4)


def placements_of(phy2logs, experts=32):
    return [ExpertPlacement.from_phy2log(phy2log, experts) for phy2log in phy2logs]


def random_windows(seed, windows=3, layers=2, experts=32):
    return random_loads(seed, windows, layers, experts) + 1


@settings(deadline=None, max_examples=30)
@given(deployments(), seeds, st.sampled_from(presets()), st.sampled_from(PHASES))
def test_kept_and_what_is_lost_make_up_the_whole(drawn, seed, preset, phase):
    deployment, experts = drawn
    windows = random_loads(seed, 3, 2, experts)
    phy2logs = [random_phy2log(seed + i, 2, deployment.num_replicas, experts) for i in range(3)]
    placements = placements_of(phy2logs, experts)
    (result,) = worth([PROFILES[preset][phase]], windows, placements, deployment, planning=0.01)
    assert result.kept + sum(result.lost.values()) == pytest.approx(1)
    assert 0 < result.kept <= 1 + 1e-9 or result.lost["spare_slots"] < 0
    assert result.lost["imbalance"] >= -1e-9


def test_perfect_balance_without_spare_slots_keeps_everything_and_gains_the_skew():
    windows = np.ones((2, 3, 32), dtype=np.int64)
    deployment = Deployment(32, 1, 2, 4)
    placements = placements_of([place(window, 32, 4) for window in windows])
    for result in worth(H200.values(), windows, placements, deployment):
        assert result.kept == pytest.approx(1)
        assert result.gain == pytest.approx(1)
    windows[:, :, :8] = 50
    placements = placements_of([place(window, 32, 4) for window in windows])
    for result in worth(H200.values(), windows, placements, deployment):
        assert result.kept == pytest.approx(1, abs=0.01)
        assert result.gain > 1.5


def test_time_is_that_of_a_slow_reimplementation():
    windows = random_windows(3)
    placements = placements_of([random_phy2log(i, 2, 40, 32) for i in range(3)])
    profile = replace(H200["decode"], tokens_per_gpu=9, fixed_stall=0.25)
    model = kernel(profile.kernel)
    seconds = 0.0
    for index, (window, placement) in enumerate(zip(windows, placements)):
        for layer in range(2):
            times = []
            for gpu in range(4):
                held = placement.phy2log[layer, gpu * 10 : (gpu + 1) * 10]
                load = window[layer] / placement.logcnt[layer]
                share = [load[expert] / window[layer].sum() for expert in held]
                active = sum(1 - max(1 - 8 * part, 0) ** (9 * 4) for part in share)
                times.append(model.ms(10, active, 9 * 4 * 8 * sum(share), 9 * 4))
            seconds += 3000 * max(times) / 1e3
        seconds += 0.5
        if index:
            seconds += moving_seconds(profile, placements[index - 1], placement, DEPLOYMENT)
    (result,) = worth([profile], windows, placements, DEPLOYMENT, planning=0.5)
    assert result.seconds == pytest.approx(seconds)
    assert result.tokens == 3 * 3000 * 9 * 4
    assert result.tokens_per_second == pytest.approx(result.tokens / seconds)


def test_gain_is_over_experts_in_order_without_spare_slots():
    windows = random_windows(4)
    plain = Deployment(32, 1, 2, 4)
    in_order = [experts_in_order(2, 32, 32)] * 3
    (result,) = worth([H200["prefill"]], windows, in_order, plain)
    assert result.gain == pytest.approx(1)
    # 33 experts on 4 GPUs need 36 slots also without EPLB.
    odd = random_windows(5, experts=33)
    (result,) = worth(
        [H200["prefill"]], odd, [experts_in_order(2, 33, 36)] * 3, Deployment(36, 1, 2, 4)
    )
    assert result.gain == pytest.approx(1)


def test_the_gpu_that_fetches_most_is_waited_for_and_links_differ():
    before = placements_of([np.array([[0, 1, 2, 3, 4, 5, 6, 7]])], 8)[0]
    # GPU 0 takes expert 2 from its own node and GPU 3 takes 0 and 1 from the other one.
    after = placements_of([np.array([[0, 2, 1, 3, 4, 5, 6, 7]])], 8)[0]
    deployment = Deployment(8, 1, 2, 4)
    within, between = fetched_experts(before, after, 4, 2)
    assert (within.tolist(), between.tolist()) == ([[1, 1, 0, 0]], [[0, 0, 0, 0]])
    far = placements_of([np.array([[0, 6, 2, 3, 4, 5, 1, 7]])], 8)[0]
    within, between = fetched_experts(before, far, 4, 2)
    assert (within.tolist(), between.tolist()) == ([[0, 0, 0, 0]], [[1, 0, 0, 1]])
    profile = replace(
        H200["decode"], bytes_per_expert=1e9, link_within_node=100.0, link_between_nodes=10.0
    )
    assert moving_seconds(profile, before, after, deployment) == pytest.approx(0.01)
    assert moving_seconds(profile, before, far, deployment) == pytest.approx(0.1)
    stalling = replace(profile, fixed_stall=2.0)
    assert moving_seconds(stalling, before, far, deployment) == pytest.approx(2.1)
    assert moving_seconds(stalling, before, before, deployment) == 0.0


def test_asynchronous_rebalancing_only_delays_the_new_placement():
    windows = random_windows(6, windows=2)
    bad = experts_in_order(2, 32, 40)
    good = placements_of([place(windows[1], 40, 4)])[0]
    blocking = replace(H200["prefill"], fixed_stall=1.0)
    later = replace(blocking, rebalancing=Rebalancing.asynchronous)
    stopped, delayed = worth([blocking, later], windows, [bad, good], DEPLOYMENT)
    assert 0 < delayed.moving < stopped.moving
    # With nothing to wait for they are the same, and what comes too late never applies.
    (never,) = worth([replace(later, fixed_stall=1e9)], windows, [bad, good], DEPLOYMENT)
    (kept_bad,) = worth([later], windows, [bad, bad], DEPLOYMENT)
    assert never.seconds == pytest.approx(kept_bad.seconds)


@pytest.mark.parametrize("phase, wins", [("decode", False), ("prefill", True)])
def test_spare_slots_are_worth_their_time_at_large_batch_only(phase, wins):
    """On GB200: 16 tokens a GPU in decode, 4,096 in prefill; loads skewed as without EPLB."""
    profile = read(["gb200-nvfp4", "decode.tokens_per_gpu=16"])[phase]
    rng = np.random.default_rng(7)
    windows = (1e4 * rng.dirichlet(np.full(256, 0.4), size=(2, 3))).astype(np.int64) + 1
    kept = []
    for slots in (256, 288):
        placements = placements_of([place(window, slots, 32) for window in windows], 256)
        (result,) = worth([profile], windows, placements, Deployment(slots, 1, 4, 32))
        kept.append(result.kept)
    assert (kept[1] > kept[0]) == wins

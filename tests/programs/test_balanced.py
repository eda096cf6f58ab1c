"""`programs/balanced.py`: ahead on windows to come, and no regime is mistaken for another."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from eplb.loads import gpu_loads
from eplb.placement import Deployment
from eplb.workload_model import PRESETS, generate
from tests.programs.judging import (
    V3,
    answer,
    drifting,
    fresh,
    last_window,
    next_window,
    reference_balancedness,
    same_window,
    swung,
)


@pytest.mark.parametrize("experts", [128, 256, 384])
@pytest.mark.parametrize("gpus", [8, 16, 32])
def test_balanced_needs_no_spare_slot(experts, gpus):
    """Hot experts stand alone, and lighter ones than LPT leaves go with them."""
    rng = np.random.default_rng(experts + gpus)
    load = np.rint(1000 * np.exp(rng.normal(scale=0.8, size=(1, 16, experts)))).astype(np.int64)
    deployment = Deployment(experts, 1, 1, gpus)
    ours = same_window("balanced", load, deployment)
    assert ours >= reference_balancedness(load, deployment) + 0.0005


@pytest.mark.parametrize(
    "deployment",
    [V3, Deployment(256, 8, 4, 16), Deployment(320, 8, 8, 64), Deployment(384, 8, 1, 32)],
    ids=str,
)
def test_balanced_keeps_groups_apart_that_rise_together(deployment):
    """The same windows without groups are placed as if experts changed on their own."""
    windows = swung(drifting(8, seed=14, noise=0.2, layers=12), seed=14, scale=0.5)
    alone = next_window("balanced", windows, replace(deployment, num_groups=1))
    assert (next_window("balanced", windows, deployment) - alone).mean() >= 0.01


@pytest.mark.parametrize(
    "deployment", [V3, Deployment(320, 8, 8, 64), Deployment(384, 8, 1, 32)], ids=str
)
def test_a_few_hot_experts_hide_no_groups_that_rise_together(deployment):
    """They have replicas, and all other experts of their groups are as before."""
    windows = drifting(8, seed=14, noise=0.2, layers=12)
    windows[..., [5, 42, 79, 116]] *= 20
    windows = swung(windows, seed=14, scale=0.5)
    alone = next_window("balanced", windows, replace(deployment, num_groups=1))
    assert (next_window("balanced", windows, deployment) - alone).mean() >= 0.01


def test_balanced_places_groups_that_do_not_rise_together_as_if_there_were_none():
    windows = drifting(8, seed=15, noise=0.2, layers=12)
    told, untold = fresh("balanced"), fresh("balanced")
    for window in windows:
        placement = answer(told, window, V3)
        without = answer(untold, window, replace(V3, num_groups=1))
        assert np.array_equal(placement.phy2log, without.phy2log)


def hottest_gpu(load: list[int], deployment: Deployment) -> float:
    window = np.array([load])
    placement = answer(fresh("balanced"), window, deployment)
    return float(gpu_loads(window, placement, deployment.num_gpus).max())


def test_balanced_finds_the_best_replication_for_a_packing():
    """The least of all counts, enumerated; greedy replication and LPT have 232."""
    load = [600, 560, 120, 120, 20, 10, 10, 10]
    assert hottest_gpu(load, Deployment(16, 1, 1, 8)) == pytest.approx(590 / 3)


def test_balanced_is_close_to_the_best_of_all_counts():
    """Two slots a GPU, where to pair the heaviest with the lightest is the best packing."""
    slots, experts, gpus = 12, 6, 6
    counts = np.array(
        [np.diff((0, *cut, slots)) for cut in combinations(range(1, slots), experts - 1)]
    )
    rng = np.random.default_rng(17)
    over = []
    for skew in np.linspace(0.5, 2, 12):
        load = np.rint(1000 * np.exp(rng.normal(scale=skew, size=experts))).astype(np.int64) + 1
        replica = np.repeat(np.tile(load, len(counts)) / counts.ravel(), counts.ravel())
        replica = np.sort(replica.reshape(-1, slots), axis=1)
        best = (replica[:, :gpus] + replica[:, : gpus - 1 : -1]).max(axis=1).min()
        over.append(hottest_gpu(load.tolist(), Deployment(slots, 1, 1, gpus)) / best)
    assert min(over) >= 1 - 1e-6
    assert np.mean(over) <= 1.02


def test_balanced_forecasts_a_noisy_load():
    windows = drifting(8, seed=5, noise=0.3)
    gain = next_window("balanced", windows) - last_window(windows)
    assert gain[3:].mean() >= 0.03


def test_balanced_is_ahead_on_windows_of_few_requests():
    windows = generate(replace(PRESETS["requests"], layers=8, seed=13)).windows()
    gain = next_window("balanced", windows) - last_window(windows)
    assert gain.mean() >= 0.02


def test_balanced_forgets_at_a_regime_change():
    windows = drifting(10, seed=6, noise=0.1, change=5, layers=48)
    gain = next_window("balanced", windows) - last_window(windows)
    assert gain[5] >= -0.01, "the window after the change is planned with the old regime"
    assert gain[6:].mean() >= 0.01


def test_balanced_remembers_a_regime_that_returns():
    windows = drifting(12, seed=7, noise=0.3, change=4)
    back = np.concatenate((windows[:8], windows[1:4]))
    gain = next_window("balanced", back) - last_window(back)
    assert gain[8] >= 0.03, "the first window of the old regime is planned alone"


def test_balanced_trusts_the_last_window_of_a_random_walk():
    rng = np.random.default_rng(8)
    steps = rng.normal(scale=0.25, size=(12, 48, 256))
    steps[0] *= 2
    windows = np.rint(2000 * np.exp(steps.cumsum(axis=0))).astype(np.int64)
    gain = next_window("balanced", windows) - last_window(windows)
    assert gain[4:].mean() >= -0.005

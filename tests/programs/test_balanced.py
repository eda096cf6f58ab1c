"""`programs/balanced.py`: ahead on windows to come, and no regime is mistaken for another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eplb.placement import Deployment
from eplb.workload_model import PRESETS, generate
from tests.programs.judging import (
    drifting,
    last_window,
    next_window,
    reference_balancedness,
    same_window,
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

"""No balancer that places freely is behind greedy replication and LPT on the window seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from eplb.placement import Deployment
from tests.programs.judging import V3, drifting, reference_balancedness, same_window, skewed

free_programs = pytest.mark.parametrize("name", ["balanced", "steady"])


@free_programs
@pytest.mark.parametrize(
    "deployment",
    [V3, Deployment(320, 8, 4, 32), Deployment(288, 1, 9, 72), Deployment(256, 1, 1, 8)],
    ids=str,
)
def test_one_window_balances_as_well_as_greedy_and_lpt(name, deployment):
    windows = drifting(3, seed=3, noise=0.2)
    wanted = reference_balancedness(windows, deployment)
    assert same_window(name, windows, deployment) >= wanted - 0.003


@free_programs
@settings(deadline=None, max_examples=20)
@given(problem=skewed(most=1.5))
def test_is_never_far_behind_greedy_and_lpt(name, problem):
    """With and without spare slots."""
    assert same_window(name, *problem) >= reference_balancedness(*problem) - 0.003


@pytest.mark.parametrize("name", ["balanced", "steady", "node_local"])
@pytest.mark.parametrize(
    ("experts", "deployment"),
    [
        (7, Deployment(288, 7, 1, 144)),
        (12, Deployment(96, 4, 1, 32)),
        (96, Deployment(256, 96, 1, 64)),
        (384, Deployment(385, 8, 1, 5)),
        (128, Deployment(132, 2, 1, 12)),
    ],
    ids=str,
)
def test_very_hot_experts_are_replicated_and_packed_as_by_greedy_and_lpt(name, experts, deployment):
    """Where slots are many more than experts, and where hardly any is spare."""
    rng = np.random.default_rng(experts)
    windows = np.rint(1000 * (1 + rng.pareto(1.0, size=(1, 16, experts)))).astype(np.int64)
    windows[0, 8:, 3] *= 1000
    wanted = reference_balancedness(windows, deployment)
    assert same_window(name, windows, deployment) >= wanted - 0.015

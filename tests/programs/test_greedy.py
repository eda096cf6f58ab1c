"""No balancer that places freely is behind greedy replication and LPT on the window seen."""

from __future__ import annotations

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

"""No balancer that places freely is behind greedy replication and LPT on the window seen.

On one node `programs/node_local.py` places freely too. `pytest tests/programs/test_greedy.py`
"""

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
    assert same_window(name, windows, deployment) >= wanted - 0.001


def hot_few(rng, shape):
    """Log-normal loads, but one to three experts are up to 60 times as hot."""
    load = np.exp(rng.normal(scale=0.5, size=shape))
    load[..., : rng.integers(1, 4)] *= rng.uniform(2, 60)
    return load


def pareto(rng, shape):
    return 1 + rng.pareto(rng.uniform(1, 3), size=shape)


@pytest.mark.parametrize("name", ["balanced", "steady", "node_local"])
@pytest.mark.parametrize("loads", [hot_few, pareto])
@pytest.mark.parametrize("gpus", [2, 5, 10, 32])
@pytest.mark.parametrize("spare", [0, 1, 4])
def test_hot_experts_that_stand_alone_go_with_light_ones(name, loads, gpus, spare):
    """Where GPUs hold many slots, of which none, one or a few are spare; small problems too."""
    rng = np.random.default_rng([3, gpus, spare])
    for slots in (6, 9):
        windows = np.rint(1000 * loads(rng, (1, 16, slots * gpus))).astype(np.int64)
        deployment = Deployment((slots + spare) * gpus, 1, 1, gpus)
        wanted = reference_balancedness(windows, deployment)
        assert same_window(name, windows, deployment) >= wanted - 0.003


@free_programs
@pytest.mark.parametrize("loads", [hot_few, pareto])
@pytest.mark.parametrize(
    ("experts", "slots", "gpus"),
    [(34, 44, 11), (68, 85, 17), (127, 156, 26), (152, 204, 34), (23, 92, 46), (139, 220, 110)],
)
def test_experts_far_hotter_than_others_do_not_put_it_behind(name, loads, experts, slots, gpus):
    """Where the claims of all others are small beside theirs, and light partners for a swap few."""
    rng = np.random.default_rng(experts)
    windows = np.rint(1000 * loads(rng, (1, 16, experts))).astype(np.int64)
    problem = windows, Deployment(slots, 1, 1, gpus)
    assert same_window(name, *problem) >= reference_balancedness(*problem) - 0.003

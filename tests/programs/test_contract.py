"""Every shipped balancer is right on every shape, and repeatable.

`pytest tests/programs`
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb.placement import Deployment, validate
from eplb.sandbox.runner import Sandbox
from tests.programs.judging import PROGRAMS, V3, answer, drifting, fresh

every_program = pytest.mark.parametrize("name", sorted(path.stem for path in PROGRAMS))


@st.composite
def problems(draw):
    """(windows [3, layers, experts], deployment) of any shape that the seed accepts."""
    nodes = draw(st.integers(1, 3))
    gpus = nodes * draw(st.integers(1, 6))
    groups = draw(st.sampled_from([1, nodes, 2 * nodes, 3]))
    experts = groups * draw(st.integers(1, 8))
    fewest = -(-experts // gpus)
    slots = gpus * draw(st.integers(fewest, fewest + 5))
    layers = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["zero", "one", "equal", "huge", "plain", "half"]))
    windows = rng.integers(0, 1000, size=(3, layers, experts))
    if kind == "zero":
        windows[:] = 0
    elif kind == "one":
        windows[..., 1:] = 0
    elif kind == "equal":
        windows[:] = 7
    elif kind == "huge":
        windows *= 10**9
    elif kind == "half":
        windows[:, ::2] = 0
    return windows, Deployment(slots, groups, nodes, gpus)


@every_program
@settings(deadline=None, max_examples=60)
@given(problem=problems())
def test_is_right_on_every_shape(name, problem):
    windows, deployment = problem
    run_eplb = fresh(name)
    for window in windows:
        local = name == "node_local" and deployment.can_be_node_local
        answer(run_eplb, window, deployment, local)


@every_program
@pytest.mark.parametrize(
    ("layers", "experts", "deployment"),
    [
        (1, 1, Deployment(1, 1, 1, 1)),
        (1, 1, Deployment(40, 1, 1, 8)),
        (1, 256, Deployment(288, 8, 4, 32)),
        (3, 12, Deployment(16, 4, 1, 1)),
        (3, 32, Deployment(32, 4, 4, 32)),
        (3, 32, Deployment(64, 4, 2, 8)),
        (3, 256, Deployment(256, 8, 4, 32)),
        (3, 256, Deployment(288, 8, 18, 144)),
        (3, 30, Deployment(35, 3, 1, 5)),
    ],
)
@pytest.mark.parametrize("scale", [0, 1000])
def test_is_right_at_the_edges(name, layers, experts, deployment, scale):
    rng = np.random.default_rng(0)
    run_eplb = fresh(name)
    for _ in range(2):
        window = rng.integers(0, scale + 1, size=(layers, experts))
        answer(run_eplb, window, deployment, name == "node_local" and deployment.can_be_node_local)


@every_program
def test_follows_a_change_of_shape(name):
    run_eplb = fresh(name)
    rng = np.random.default_rng(0)
    for layers, experts, deployment in [
        (4, 256, V3),
        (4, 256, Deployment(320, 8, 4, 32)),
        (2, 256, V3),
        (2, 64, Deployment(72, 1, 2, 8)),
        (4, 256, V3),
    ]:
        answer(run_eplb, rng.integers(0, 1000, size=(layers, experts)), deployment)


@every_program
def test_results_are_fresh_and_repeatable(name):
    windows = drifting(3, seed=1, noise=0.2)
    first, second = fresh(name), fresh(name)
    kept = []
    for window in windows:
        placement = answer(first, window, V3)
        kept.append((placement, placement.phy2log.copy()))
        assert np.array_equal(placement.phy2log, answer(second, window, V3).phy2log)
    for placement, copy in kept:
        assert np.array_equal(placement.phy2log, copy), "a later call changed an earlier answer"


@every_program
def test_takes_integers_and_half_precision(name):
    for dtype in (torch.int64, torch.float64, torch.bfloat16):
        weight = torch.arange(1, 65).reshape(2, 32).to(dtype)
        phy2log, _, logcnt = fresh(name)(weight, 40, 4, 2, 8)
        assert phy2log.shape == (2, 40) and int(logcnt.sum()) == 80


def test_every_program_runs_in_the_sandbox():
    windows = drifting(3, seed=11, noise=0.2)
    with Sandbox(timeout=60) as sandbox:
        for path in PROGRAMS:
            run = sandbox.run(path, windows, V3)
            for given_answer in run.answers:
                maps = (given_answer.phy2log, given_answer.log2phy, given_answer.logcnt)
                validate(*maps, num_layers=8, num_experts=256, deployment=V3)

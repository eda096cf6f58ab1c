"""What the pictures show: `pytest tests/evaluation/test_plots.py`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb.evaluation.plots import balancedness_figure, draw, gpu_loads_figure, unbalanced_loads
from tests.evaluation.measured import DEPLOYMENT, evaluation_of, random_history, reference_run
from tests.strategies import random_loads, seeds


@pytest.fixture(scope="module")
def measured():
    history = random_history(1)
    run = reference_run(history)
    seed = reference_run(random_history(2))
    return evaluation_of([run, run], history, seed_scores=seed.scores)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20), st.integers(1, 6), seeds)
def test_without_a_balancer_experts_lie_in_order(experts, gpus, seed):
    load = random_loads(seed, 2, experts)
    loads = unbalanced_loads(load, gpus)
    for layer in range(2):
        expected = [0] * gpus
        for expert in range(experts):
            expected[int(expert * gpus / experts)] += load[layer, expert]
        assert loads[layer].tolist() == expected


def test_lines_are_the_scores_by_window(measured):
    axis = balancedness_figure(measured).axes[0]
    lines = {line.get_label().split(":")[0]: line.get_ydata() for line in axis.lines}
    scores = measured.runs[0].scores
    np.testing.assert_allclose(lines["this program"], scores.balancedness)
    np.testing.assert_allclose(
        lines["this program, on the window it saw (oracle)"], scores.same_window
    )
    np.testing.assert_allclose(lines["seed"], measured.seed_scores.balancedness)
    assert len(lines["no balancer"]) == len(scores.balancedness)


def test_gpu_loads_are_those_of_a_typical_window(measured):
    before, after = gpu_loads_figure(measured).axes[:2]
    scores = measured.runs[0].scores
    window = int(np.argsort(scores.balancedness)[len(scores.balancedness) // 2])
    loads = scores.gpu_loads[window]
    expected = loads / loads.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(after.images[0].get_array(), expected)
    assert f"balancedness {scores.balancedness[window]:.3f}" in after.get_title()
    assert before.images[0].get_array().shape == (4, DEPLOYMENT.num_gpus)


def test_files(measured, tmp_path):
    draw(measured, tmp_path / "plots")
    written = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert written == ["balancedness.png", "gpu_loads.png"]

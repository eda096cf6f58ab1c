"""What the pictures show: `pytest tests/evaluation/test_plots.py`."""

from __future__ import annotations

import numpy as np
import pytest

from eplb.evaluation.plots import balancedness_figure, draw, gpu_loads_figure
from tests.evaluation.measured import DEPLOYMENT, evaluation_of, random_history, reference_scores


@pytest.fixture(scope="module")
def measured():
    seed = reference_scores(random_history(2))
    return evaluation_of(reference_scores(random_history(1)), seed_scores=seed)


def test_lines_are_the_scores_by_window(measured):
    axis = balancedness_figure(measured).axes[0]
    lines = {line.get_label().split(":")[0]: line.get_ydata() for line in axis.lines}
    scores = measured.scores
    np.testing.assert_allclose(lines["this program"], scores.balancedness_score)
    np.testing.assert_allclose(
        lines["this program, on the window it saw (oracle)"], scores.balancedness_oracle
    )
    np.testing.assert_allclose(lines["seed"], measured.seed_scores.balancedness_score)
    np.testing.assert_allclose(lines["experts in order"], scores.balancedness_in_order)


def test_gpu_loads_are_those_of_a_typical_window(measured):
    before, after = gpu_loads_figure(measured).axes[:2]
    scores = measured.scores
    window = int(np.argsort(scores.balancedness_score)[len(scores.balancedness_score) // 2])
    loads = scores.gpu_loads[window]
    expected = loads / loads.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(after.images[0].get_array(), expected)
    assert f"balancedness {scores.balancedness_score[window]:.3f}" in after.get_title()
    assert before.images[0].get_array().shape == (4, DEPLOYMENT.num_gpus)


def test_files(measured, tmp_path):
    draw(measured, tmp_path / "plots")
    written = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert written == ["balancedness.png", "gpu_loads.png"]

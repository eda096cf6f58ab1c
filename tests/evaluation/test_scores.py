"""The formulas of the scores: `pytest tests/evaluation/test_scores.py`."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb.evaluation.scores import (
    SCORINGS,
    SHORTEST_SECONDS,
    Figures,
    call_seconds,
    combined_scores,
    score_placements,
    speed_score,
)
from eplb.placement import Deployment, ExpertPlacement
from tests.evaluation.measured import history_of
from tests.strategies import deployments, random_loads, random_phy2log, seeds


def slow_balancedness(load, phy2log, units):
    """Σ mean / Σ max over ``units`` equal parts of the slots, by hand."""
    hottest = mean = 0.0
    for tokens, row in zip(load.tolist(), phy2log.tolist(), strict=True):
        size = len(row) // units
        parts = [
            sum(tokens[e] / row.count(e) for e in row[u * size : (u + 1) * size])
            for u in range(units)
        ]
        hottest += max(parts)
        mean += sum(parts) / units
    return mean / hottest if hottest else 1.0


@settings(deadline=None, max_examples=40)
@given(deployments(), st.integers(2, 4), st.integers(1, 3), st.integers(1, 3), seeds)
def test_scores_are_those_of_a_slow_reimplementation(drawn, windows, records, layers, seed):
    deployment, experts = drawn
    history = history_of(random_loads(seed, windows, records, layers, experts))
    slots, gpus = deployment.num_replicas, deployment.num_gpus
    phy2logs = [random_phy2log(seed + w, layers, slots, experts) for w in range(windows - 1)]
    placements = [ExpertPlacement.from_phy2log(p, experts) for p in phy2logs]
    scores = score_placements(placements, history, deployment)
    for window, phy2log in enumerate(phy2logs):
        seen, coming = history.windows[window], history.windows[window + 1]
        assert scores.balancedness[window] == pytest.approx(
            slow_balancedness(coming, phy2log, gpus)
        )
        assert scores.same_window[window] == pytest.approx(slow_balancedness(seen, phy2log, gpus))
        assert scores.expert[window] == pytest.approx(slow_balancedness(coming, phy2log, slots))
        steps = [slow_balancedness(r, phy2log, gpus) for r in history.records[window + 1]]
        assert scores.step[window] == pytest.approx(np.mean(steps))
        assert scores.gpu_loads[window].sum() == pytest.approx(coming.sum())
    assert scores.migrated.shape == (windows - 2,)


def test_the_window_that_followed_counts_and_not_the_one_seen():
    """A placement that is perfect for what it saw scores as it does on what came."""
    history = history_of(np.array([[[[4, 1, 1, 1, 1]]], [[[0, 8, 0, 0, 0]]]]))
    placement = ExpertPlacement.from_phy2log(np.array([[0, 1, 0, 2, 0, 3, 0, 4]]), 5)
    scores = score_placements([placement], history, Deployment(8, 1, 1, 4))
    assert scores.same_window.tolist() == [1.0]
    assert scores.balancedness.tolist() == [0.25]


def test_slots_and_gpus_are_different_things():
    """Hot and cold experts side by side: GPUs are even where slots are not."""
    history = history_of(np.array([[[[3, 1, 3, 1]]], [[[3, 1, 3, 1]]]]))
    placement = ExpertPlacement.from_phy2log(np.array([[0, 1, 2, 3]]), 4)
    scores = score_placements([placement], history, Deployment(4, 1, 1, 2))
    assert scores.balancedness.tolist() == [1.0]
    assert scores.expert[0] == pytest.approx(2 / 3)


def test_speed_of_the_seed_and_of_faster_programs():
    assert speed_score(0.2, 0.2) == pytest.approx(1 / 101)
    assert round(speed_score(0.2, 0.2), 4) == 0.0099
    assert speed_score(0.002, 0.2) == pytest.approx(0.5)
    assert 0 < speed_score(1e6, 1e-6) < speed_score(1e-6, 1e6) < 1


def test_time_of_a_call_is_the_mean_of_medians_without_the_slowest_window():
    assert call_seconds(np.array([[9.0, 2.0, 90.0], [9.0, 4.0, 5.0], [8.0, 3.0, 5.0]])) == 4.0
    assert call_seconds(np.array([9.0, 2.0, 4.0])) == 3.0


def test_deciding_in_every_other_window_still_takes_time():
    lazy = np.tile([2.0, 0.0, 0.0, 2.0, 0.0, 2.0, 0.0, 2.0, 0.0, 2.0, 0.0], (3, 1))
    assert call_seconds(lazy) == 0.8
    # The clock may show nothing, or less than nothing once the round trip is subtracted.
    assert call_seconds(np.array([[0.0, -1e-5]])) == SHORTEST_SECONDS


def test_scores_as_other_repositories_publish_them():
    scores = combined_scores(Figures(0.8, 0.3, 0.004, 0.4, 0.25))
    assert tuple(scores) == SCORINGS
    assert scores["eplb"] == pytest.approx((0.8 + 0.5) / 2)
    assert scores["balance"] == pytest.approx(0.8 - 0.01)
    assert scores["steady"] == pytest.approx(0.8 - 0.01 - 0.01)
    assert scores["openevolve"] == pytest.approx((0.8 + 0.02 / 0.004) / 2)
    assert scores["skydiscover"] == pytest.approx((0.3 + 0.002 / 0.004) / 2)
    assert scores["adrs"] == pytest.approx(90 * 0.8 + 5 * 0.5)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0005, 72 + 5 * 2),  # the bonus is capped
        (0.010, 72 + 5 * 0.2),  # 10 ms is not yet late
        (0.1, 72 + 5 * 0.02 - 2),
        (5.0, 72 + 5 * 0.0004 - 20),  # the penalty is capped
    ],
)
def test_adrs_bonus_and_penalty(seconds, expected):
    assert combined_scores(Figures(0.8, 0.3, seconds, 0.4, 0.0))["adrs"] == pytest.approx(expected)


def test_adrs_stays_within_0_and_100():
    assert combined_scores(Figures(1.0, 1.0, 1e-6, 0.4, 0.0))["adrs"] == 100
    assert combined_scores(Figures(0.01, 0.01, 100.0, 0.4, 1.0))["adrs"] == 0


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-1, 1e6), st.floats(1e-6, 1e6), st.floats(0, 1))
def test_every_score_is_finite_and_above_failure(gpus, slots, seconds, seed_seconds, moved):
    seconds = call_seconds(np.array([seconds]))
    scores = combined_scores(Figures(gpus, slots, seconds, seed_seconds, moved))
    assert all(math.isfinite(score) and score >= 0 for score in scores.values())

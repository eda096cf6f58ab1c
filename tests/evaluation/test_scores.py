"""The formulas of the scores: `pytest tests/evaluation/test_scores.py`."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb.evaluation.scores import (
    SCORINGS,
    SHORTEST_MS,
    Figures,
    PlacementScores,
    call_ms,
    combined_scores,
)
from eplb.placement import Deployment, ExpertPlacement
from eplb.throughput.profile import Serving
from eplb.throughput.worth import Worth
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
    return mean / hottest if hottest else math.nan


@settings(deadline=None, max_examples=40)
@given(deployments(), st.integers(2, 4), st.integers(1, 3), st.integers(1, 3), seeds)
def test_scores_are_those_of_a_slow_reimplementation(drawn, windows, records, layers, seed):
    deployment, experts = drawn
    history = history_of(random_loads(seed, windows, records, layers, experts))
    slots, gpus = deployment.num_replicas, deployment.num_gpus
    phy2logs = [random_phy2log(seed + w, layers, slots, experts) for w in range(windows - 1)]
    placements = [ExpertPlacement.from_phy2log(p, experts) for p in phy2logs]
    scores = PlacementScores(placements, history, deployment)
    in_order = np.tile([slot % experts for slot in range(slots)], (layers, 1))

    def same(value):
        return pytest.approx(value, nan_ok=True)

    for window, phy2log in enumerate(phy2logs):
        seen, coming = history.windows[window], history.windows[window + 1]
        slow = slow_balancedness(coming, phy2log, gpus)
        assert scores.balancedness_score[window] == same(slow)
        slow = slow_balancedness(coming, in_order, gpus)
        assert scores.balancedness_in_order[window] == same(slow)
        slow = slow_balancedness(seen, phy2log, gpus)
        assert scores.balancedness_oracle[window] == same(slow)
        slow = slow_balancedness(coming, phy2log, slots)
        assert scores.balancedness_expert[window] == same(slow)
        steps = [slow_balancedness(r, phy2log, gpus) for r in history.records[window + 1]]
        known = [step for step in steps if not math.isnan(step)]
        if known:
            assert scores.balancedness_step[window] == pytest.approx(np.mean(known))
        assert scores.gpu_loads[window].sum() == pytest.approx(coming.sum())
    assert scores.migrated_experts.shape == (windows - 2,)


def test_the_window_that_followed_counts_and_not_the_one_seen():
    """A placement that is perfect for what it saw scores as it does on what came."""
    history = history_of(np.array([[[[4, 1, 1, 1, 1]]], [[[0, 8, 0, 0, 0]]]]))
    placement = ExpertPlacement.from_phy2log(np.array([[0, 1, 0, 2, 0, 3, 0, 4]]), 5)
    scores = PlacementScores([placement], history, Deployment(8, 1, 1, 4))
    assert scores.balancedness_oracle.tolist() == [1.0]
    assert scores.balancedness_score.tolist() == [0.25]


def test_slots_and_gpus_are_different_things():
    """Hot and cold experts side by side: GPUs are even where slots are not."""
    history = history_of(np.array([[[[3, 1, 3, 1]]], [[[3, 1, 3, 1]]]]))
    placement = ExpertPlacement.from_phy2log(np.array([[0, 1, 2, 3]]), 4)
    scores = PlacementScores([placement], history, Deployment(4, 1, 1, 2))
    assert scores.balancedness_score.tolist() == [1.0]
    assert scores.balancedness_expert[0] == pytest.approx(2 / 3)


# Half of the time is lost: to imbalance, and to planning and moves.
WORTH = Worth(5.0, 1.0, 2.0, 1.0, 1.0, without=20.0, tokens=100.0)
THROUGHPUT = {"prefill": WORTH, "decode": WORTH}


def figures(score=0.8, in_order=0.4, slots=0.3, ms=4.0, seed_ms=400.0):
    names = ("balancedness_score", "balancedness_in_order", "balancedness_expert")
    return Figures(dict(zip(names, (score, in_order, slots))), ms, seed_ms, THROUGHPUT)


def test_removed_is_the_share_of_the_imbalance_of_experts_in_order():
    assert figures(0.7, 0.4).removed == pytest.approx(0.5)
    assert figures(1.0, 0.4).removed == 1.0
    assert figures(0.4, 0.4).removed == 0.0
    # Worse than no balancer at all is as bad, and balance where there was nothing to remove is 0.
    assert figures(0.3, 0.4).removed == 0.0
    assert figures(1.0, 1.0).removed == 0.0
    assert figures(0.9, 1.0).removed == 0.0


def test_speed_counts_as_far_as_it_brings_balance_and_to_a_hundredfold():
    removed = figures().removed
    assert figures(ms=400.0).speed_score == pytest.approx(removed / 100)
    assert figures(ms=40.0).speed_score == pytest.approx(removed / 10)
    assert figures(ms=4.0).speed_score == pytest.approx(removed)
    assert figures(ms=0.001).speed_score == removed
    assert figures(score=0.4, ms=0.001).speed_score == 0.0


def test_time_of_a_call_is_each_repeats_mean_without_its_first_and_their_median():
    seconds = 1e-3 * np.array([[9.0, 2.0, 90.0], [9.0, 4.0, 6.0], [8.0, 3.0, 5.0]])
    assert call_ms(seconds) == pytest.approx(5.0)
    assert call_ms(1e-3 * np.array([[9.0], [2.0], [4.0]])) == pytest.approx(4.0)


def test_deciding_now_and_then_still_takes_time():
    """In every other window, in another third of them in each repeat, or late."""
    every_other = np.tile([2.0, 0.0, 0.0, 2.0, 0.0, 2.0, 0.0, 2.0, 0.0, 2.0, 0.0], (3, 1))
    by_repeat = np.array([[9.0, 6.0, 0.0, 0.0], [9.0, 0.0, 6.0, 0.0], [9.0, 0.0, 0.0, 6.0]])
    late = np.tile([0.0, 0.0, 0.0, 0.0, 6.0], (3, 1))
    assert call_ms(1e-3 * every_other) == pytest.approx(0.8)
    assert call_ms(1e-3 * by_repeat) == pytest.approx(2.0)
    assert call_ms(1e-3 * late) == pytest.approx(1.5)
    # The clock may show nothing, or less than nothing once the round trip is subtracted.
    assert call_ms(np.array([[0.0, -1e-5]])) == SHORTEST_MS


def test_scores_as_other_repositories_publish_them():
    scores = combined_scores(figures(0.8, 0.4, 0.3, 4.0, 400.0))
    assert scores["eplb"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert scores["openevolve"] == pytest.approx((0.8 + 0.02 / 0.004) / 2)
    assert scores["skydiscover"] == pytest.approx((0.3 + 0.002 / 0.004) / 2)
    assert scores["adrs"] == pytest.approx(90 * 0.8 + 5 * 0.5)


@pytest.mark.parametrize(
    ("ms", "expected"),
    [
        (0.5, 72 + 5 * 2),  # the bonus is capped
        (10, 72 + 5 * 0.2),  # 10 ms is not yet late
        (100, 72 + 5 * 0.02 - 2),
        (5000, 72 + 5 * 0.0004 - 20),  # the penalty is capped
    ],
)
def test_adrs_bonus_and_penalty(ms, expected):
    assert combined_scores(figures(ms=ms))["adrs"] == pytest.approx(expected)


def test_adrs_stays_within_0_and_100():
    assert combined_scores(figures(1.0, ms=1e-3))["adrs"] == 100
    assert combined_scores(figures(0.01, ms=1e5))["adrs"] == 0


shares = st.floats(0, 1)


@given(shares, shares, shares, st.floats(-1, 1e6), st.floats(1e-3, 1e9))
def test_every_score_is_finite_and_above_failure(score, in_order, slots, seconds, seed_ms):
    ms = call_ms(np.array([[seconds]]))
    scores = combined_scores(figures(score, in_order, slots, ms, seed_ms))
    assert set(scores) == set(SCORINGS)
    assert all(math.isfinite(score) and score >= 0 for score in scores.values())


def test_throughput_is_what_is_kept_and_pays_for_balance_and_planning():
    formula = SCORINGS["throughput"].formula
    before = figures()
    assert formula(before) == pytest.approx(0.5)
    # A fifth of the time is lost to imbalance, of which 0.1 more balancedness removes half.
    assert formula(before.with_balance(0.1)) == pytest.approx(5 / 9)
    assert formula(before.with_balance(1.0)) == pytest.approx(5 / 8)
    assert formula(before.with_speed(2)) == pytest.approx(5 / 9.5)


@pytest.mark.parametrize("rule", ["nearest", "by_rank", "lp"])
def test_dispatch_decides_over_the_balance_of_the_same_placements(rule):
    history = history_of(random_loads(3, 4, 2, 3, 24) + 1)
    deployment = Deployment(32, 4, 2, 8)
    placements = [
        ExpertPlacement.from_phy2log(random_phy2log(seed, 3, 32, 24), 24) for seed in range(3)
    ]
    even = PlacementScores(placements, history, deployment)
    other = PlacementScores(placements, history, deployment, Serving.of(["h200"], rule))
    differs = other.balancedness_score - even.balancedness_score
    assert (differs > 0).all() if rule == "lp" else (differs != 0).any()
    worths = other.worth(0.0), even.worth(0.0)
    assert worths[0]["prefill"].imbalance != worths[1]["prefill"].imbalance

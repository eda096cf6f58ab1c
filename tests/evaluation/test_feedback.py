"""What a model is told: `pytest tests/evaluation/test_feedback.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eplb import reference
from eplb.common import printable
from eplb.evaluation.feedback import refusal_feedback, worst_layers
from eplb.evaluation.results import metrics_of
from eplb.trace import History
from tests.evaluation.measured import (
    DEPLOYMENT,
    evaluation_of,
    random_history,
    reference_scores,
    scores_of,
    steady_history,
)


def told(scores, scoring="eplb", seconds=0.002):
    return metrics_of(evaluation_of(scores, (seconds,), scoring))["text_feedback"]


def test_figures_have_four_digits_and_are_those_of_the_scores():
    scores = reference_scores(random_history(1))
    text = told(scores)
    assert f"{scores.balancedness_score.mean():.4f} on the next windows" in text
    assert f"{scores.balancedness_oracle.mean():.4f} on the windows seen (oracle)" in text
    worst = int(scores.balancedness_score.argmin())
    assert f"Worst windows: {worst}->{worst + 1} {scores.balancedness_score[worst]:.4f}" in text
    removed = figures_of(scores).removed
    assert f"2 ms a call, the seed 200 ms; removed {removed:.4f} of the imbalance" in text
    assert f"speed_score {removed:.4f}." in text


def figures_of(scores, seconds=0.002):
    return evaluation_of(scores, (seconds,)).figures


def test_what_is_worth_what_is_counted_by_the_chosen_scoring():
    """Four milliseconds of the seed's 200: half of the speed's score. A balancedness b."""
    scores = reference_scores(steady_history(1))
    figures = figures_of(scores, 0.004)
    missing = 1 - figures.balance
    # What b gains, removed gains in proportion, and half of that the speed's score.
    slope = (1 + 0.5 / (1 - figures.means["balancedness_in_order"])) / 2
    for scoring, faster, hundredth, perfect in (
        ("eplb", figures.removed / 4, 0.01 * slope, missing * slope),
        ("adrs", 2.5, 0.9, 90 * missing),
    ):
        text = told(scores, scoring, 0.004)
        assert f"twice as fast is worth {faster:.4f} now" in text
        assert f"one hundredth more balancedness {hundredth:.4f}" in text
        assert f"perfect balance {perfect:.4f}." in text
    # At a hundredth of the seed's time there is nothing to gain from speed.
    assert "twice as fast is worth 0.0000 now" in told(scores, "eplb", 0.002)


def test_the_part_that_lost_most_is_named_with_advice():
    history = random_history(2)
    assert "Most to gain: forecast, 0." in told(reference_scores(history))
    steady = steady_history(2)
    slots, gpus = DEPLOYMENT.num_replicas, DEPLOYMENT.num_gpus
    unpacked = [np.sort(reference.place(w, slots, gpus), axis=1) for w in steady.seen]
    text = told(scores_of(unpacked, steady))
    assert "Most to gain: packing, 0." in text
    assert "would reach 0." in text


def test_a_slow_program_has_most_to_gain_from_speed():
    scores = reference_scores(steady_history(3))
    text = told(scores, seconds=0.02)
    worth = figures_of(scores, 0.02).removed * 0.9 / 2
    assert f"Most to gain: speed, {worth:.4f} of the combined score." in text


def test_the_worst_layers_are_those_that_lose_most_time():
    """Layer 2 carries ten times the tokens: the same ratio there costs ten times as much."""
    history = random_history(3, layers=3)
    records = history.records.copy()
    records[:, :, 2] = 10 * records[:, :, 1]
    history = History(records)
    scores = reference_scores(history)
    worst = worst_layers(scores)
    assert worst[0][0] == 2
    assert sum(share for _, _, share in worst) == pytest.approx(1)
    loads = scores.gpu_loads[:, 2]
    assert worst[0][1] == pytest.approx(loads.max(axis=1).sum() / loads.mean(axis=1).sum())
    assert f"Worst layers: 2 (hottest GPU {worst[0][1]:.4f} x the mean" in told(scores)


def test_perfect_balance_has_no_worst_layer():
    history = steady_history(4)
    flat = History(np.ones_like(history.records[:, :1]))
    phy2logs = [np.tile(np.arange(24), (4, 1))] * 4
    deployment = replace(DEPLOYMENT, num_replicas=24)
    text = told(scores_of(phy2logs, flat, deployment))
    assert "No layer is out of balance." in text
    assert "Most to gain" not in text


def test_a_refusal_says_why_and_the_way_out():
    text = refusal_feedback(
        "window 3: logcnt: layer 1, expert 5 claims 3 replicas; phy2log has 2", []
    )
    assert text.startswith("Refused, score 0: window 3: logcnt: layer 1, expert 5 claims 3")
    assert "Count the replicas in phy2log" in text
    assert "rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)" in text
    assert "Count the replicas" not in refusal_feedback("SyntaxError", [])
    raised = refusal_feedback("the program failed", ["line 7, in pack", "line 9, in sort\x1b[2J"])
    assert "\nline 7, in pack\nline 9, in sort [2J\n" in raised


def test_printable_keeps_one_short_line():
    assert printable("a\r\nb\t\x00c\u202e", 80) == "a b c"
    assert printable("x" * 100, 10) == "x" * 9 + "…"

"""What a model is told: `pytest tests/evaluation/test_feedback.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eplb import reference
from eplb.evaluation.feedback import printable, refusal_feedback, worst_layers
from eplb.evaluation.results import metrics_of
from eplb.trace import History
from tests.evaluation.measured import (
    DEPLOYMENT,
    evaluation_of,
    random_history,
    reference_run,
    run_of,
    steady_history,
)


def told(run, history, scoring="eplb", **kwargs):
    return metrics_of(evaluation_of([run], history, **kwargs), scoring)["text_feedback"]


def test_figures_have_four_digits_and_are_those_of_the_scores():
    history = random_history(1)
    run = reference_run(history)
    text = told(run, history)
    assert f"{run.scores.balancedness.mean():.4f} on the next windows" in text
    assert f"{run.scores.same_window.mean():.4f} on the windows seen (oracle)" in text
    worst = int(run.scores.balancedness.argmin())
    assert f"Worst windows: {worst}->{worst + 1} {run.scores.balancedness[worst]:.4f}" in text
    assert "2 ms a call, the seed 200 ms; speed_score 0.5000" in text


def test_what_would_help_is_counted_by_the_chosen_scoring():
    """Two milliseconds of the seed's 200, and a balancedness b."""
    history = random_history(1)
    run = reference_run(history)
    missing = 1 - run.scores.balancedness.mean()
    for scoring, faster, perfect in (
        ("eplb", (2 / 3 - 1 / 2) / 2, missing / 2),
        ("balance", 0.005, missing),
        ("adrs", 5.0, 90 * missing),
    ):
        text = told(run, history, scoring)
        assert f"Twice as fast would add {faster:.4f}" in text
        assert f"perfect balance would add {perfect:.4f}." in text


def test_the_part_that_lost_most_is_named_with_advice():
    history = random_history(2)
    assert "Most to gain: forecast." in told(reference_run(history), history)
    steady = steady_history(2)
    slots, gpus = DEPLOYMENT.num_replicas, DEPLOYMENT.num_gpus
    unpacked = [np.sort(reference.place(w, slots, gpus), axis=1) for w in steady.seen]
    text = told(run_of(unpacked, steady), steady)
    assert "Most to gain: packing." in text
    assert "would reach 0." in text


def test_the_worst_layers_are_those_that_lose_most_time():
    """Layer 2 carries ten times the tokens: the same ratio there costs ten times as much."""
    history = random_history(3, layers=3)
    records = history.records.copy()
    records[:, :, 2] = 10 * records[:, :, 1]
    history = History(records, records.sum(axis=1))
    run = reference_run(history)
    worst = worst_layers(run)
    assert worst[0][0] == 2
    assert sum(share for _, _, share in worst) == pytest.approx(1)
    loads = run.scores.gpu_loads[:, 2]
    assert worst[0][1] == pytest.approx(loads.max(axis=1).sum() / loads.mean(axis=1).sum())
    assert f"Worst layers: 2 (hottest GPU {worst[0][1]:.4f} x the mean" in told(run, history)


def test_perfect_balance_has_no_worst_layer():
    history = steady_history(4)
    flat = History(np.ones_like(history.records), np.ones_like(history.windows))
    phy2logs = [np.tile(np.arange(24), (4, 1))] * 4
    deployment = replace(DEPLOYMENT, num_replicas=24)
    run = run_of(phy2logs, flat, deployment)
    text = told(run, flat, deployment=deployment)
    assert "No layer is out of balance." in text
    assert "Most to gain" not in text


def test_stages_are_shown_by_time():
    history = random_history(5)
    run = reference_run(history, stages={"fast": 0.04, "slow": 0.4})
    # Four windows were answered.
    assert told(run, history).endswith("by the program's own word: slow 100 ms, fast 10 ms.")


def test_no_stages_no_line():
    history = random_history(6)
    assert "Stages" not in told(reference_run(history), history)


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

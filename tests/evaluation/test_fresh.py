"""Scores on traces that nobody has seen: `pytest tests/evaluation/test_fresh.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eplb.common import project_file
from eplb.evaluation import fresh
from eplb.evaluation.fresh import FreshTrace, draw, mean_score, score_fresh
from eplb.evaluation.measure import Criteria
from eplb.evaluation.scores import SCORINGS, Scoring
from eplb.sandbox.runner import Sandbox
from eplb.workload_model import PRESETS

SEED = project_file("initial.py")
BALANCED = project_file("programs/balanced.py")


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(20.0) as sandbox:
        yield sandbox


@pytest.fixture
def small(monkeypatch):
    """Two presets of different shapes."""
    tiny = replace(PRESETS["tiny"], windows=5)
    other = replace(tiny, experts=12, num_groups=3, num_replicas=16, num_gpus=8)
    monkeypatch.setattr(fresh, "PRESETS", {"tiny": tiny, "other": other})
    monkeypatch.setattr(fresh, "FRESH_PRESETS", ("tiny", "other"))


def test_seeds_have_128_bits_and_presets_take_turns():
    traces = draw(7)
    assert len({trace.seed for trace in traces}) == 7
    assert max(trace.seed for trace in traces) > 2**64
    presets = [trace.preset for trace in traces]
    assert len(set(presets[:3])) == 3
    assert presets == [trace.preset for trace in draw(7)]
    for trace in traces:
        model = PRESETS[trace.preset]
        model.deployment.check(model.experts)


def test_a_seed_makes_the_same_scores_again(sandbox, small, monkeypatch):
    slots = Scoring(lambda f: f.means["balancedness_expert"], "")
    monkeypatch.setitem(SCORINGS, "slots", slots)
    traces = draw(2)
    shares = []
    # A scoring without the clock.
    first, again = (
        score_fresh([BALANCED], traces, sandbox, Criteria(scoring="slots"), shares.append)
        for _ in range(2)
    )
    assert first == again
    assert [(score["trace"], int(score["seed"])) for score in first[0]] == traces
    assert shares == [0.5, 1.0] * 2


def test_programs_are_told_apart_and_a_refusal_counts_on_its_trace_only(sandbox, small, tmp_path):
    picky = tmp_path / "picky.py"
    picky.write_text(
        f"{SEED.read_text()}\n\nseed = run_eplb\n\n\n"
        "def run_eplb(weight, *sizes):\n"
        "    if weight.shape[1] == 12:\n        raise ValueError('twelve')\n"
        "    return seed(weight, *sizes)\n"
    )
    traces = [FreshTrace("tiny", 1), FreshTrace("other", 2**100)]
    honest, refused = score_fresh([SEED, picky], traces, sandbox, Criteria())
    accepted = [*honest, refused[0]]
    assert all(score["refusal"] is None and score["score"] > 0 for score in accepted)
    assert refused[1]["score"] == 0.0
    assert "ValueError" in refused[1]["refusal"]
    assert mean_score(refused) == pytest.approx(refused[0]["score"] / 2)
    assert refused[1]["seed"] == str(2**100)
    assert np.isfinite(mean_score(honest))


def test_locality_is_required_where_the_groups_divide(sandbox, small):
    [scores] = score_fresh(
        [BALANCED],
        [FreshTrace("tiny", 1), FreshTrace("other", 1)],
        sandbox,
        Criteria(require_locality=True),
    )
    assert "locality" in scores[0]["refusal"]
    assert scores[1]["refusal"] is None


@pytest.mark.parametrize(
    "programs, runs",
    [
        ([BALANCED, BALANCED], ([("initial.py", 2)] + [("balanced.py", 4)] * 6) * 2),
        ([BALANCED, SEED], ([("initial.py", 4)] + [("balanced.py", 4)] * 3) * 2),
    ],
)
def test_the_seed_runs_once_a_trace(sandbox, small, monkeypatch, programs, runs):
    asked = []

    def run(program, windows, deployment, *progress):
        asked.append((program.name, len(windows)))
        return answer(program, windows, deployment, *progress)

    answer = sandbox.run
    monkeypatch.setattr(fresh, "TIMED_WINDOWS", 2)
    monkeypatch.setattr(sandbox, "run", run)
    scores = score_fresh(programs, draw(2), sandbox, Criteria())
    assert asked == runs
    assert all(score["score"] > 0 for of in scores for score in of)

"""metrics.json and correct.json, and who reads them: `pytest tests/evaluation/test_results.py`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from eplb.common import UserError
from eplb.evaluation.results import metrics_of, prepare, write_misuse, write_results
from eplb.evaluation.scores import SCORINGS
from eplb.evaluation.table import table
from eplb.sandbox.runner import Refused
from tests.evaluation import measured
from tests.evaluation.measured import evaluation_of, random_history, reference_scores


def scored_by(scoring):
    return evaluation_of(reference_scores(random_history(1)), (0.002, 0.004, 0.003), scoring)


@pytest.fixture(scope="module")
def scored():
    return scored_by("eplb")


@pytest.fixture(scope="module")
def refused():
    reason = Refused("window 3: phy2log: layer 1 has no slot for expert 2", ["line 7, in pack"])
    return measured.refused(random_history(1), reason)


def written(folder, evaluation):
    prepare(folder)
    write_results(folder, metrics_of(evaluation))
    return [json.loads((folder / name).read_text()) for name in ("metrics.json", "correct.json")]


def leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def test_what_is_reported(scored, tmp_path):
    metrics, correct = written(tmp_path, scored)
    scores, public = scored.scores, metrics["public"]
    assert correct == {"correct": True, "error": ""}
    assert set(scores.by_window) < set(public)
    for name, values in scores.by_window.items():
        assert public[name] == pytest.approx(values.mean())
        assert metrics["private"]["by_window"][name] == pytest.approx(values.tolist())
    assert public["call_ms"] == pytest.approx(3)
    assert public["seed_call_ms"] == pytest.approx(200)
    for name in ("removed", "speed_score"):
        assert public[name] == pytest.approx(getattr(scored.figures, name))
    expected = (public["balancedness_score"] + public["speed_score"]) / 2
    assert metrics["combined_score"] == pytest.approx(expected)
    # ShinkaEvolve means whole runs, here of four windows.
    assert metrics["execution_time_mean"] == pytest.approx(0.012)
    assert metrics["execution_time_std"] == pytest.approx(np.std([0.008, 0.012, 0.016]))
    assert metrics["private"]["isolation"] == "none, in a test"


def test_windows_without_tokens_have_no_figure_and_count_in_no_mean():
    history = random_history(2)
    windows = history.windows.copy()
    windows[2] = 0
    scores = reference_scores(type(history)(windows[:, None]))
    metrics = metrics_of(evaluation_of(scores))
    by_window = metrics["private"]["by_window"]["balancedness_score"]
    assert [value is None for value in by_window] == [False, True, False, False]
    known = [value for value in by_window if value is not None]
    assert metrics["public"]["balancedness_score"] == pytest.approx(np.mean(known))
    json.dumps(metrics, allow_nan=False)
    assert "nan" not in shown(metrics) + metrics["text_feedback"]


def test_all_numbers_are_finite_python_numbers(refused):
    for evaluation in (refused, *map(scored_by, SCORINGS)):
        for leaf in leaves(metrics_of(evaluation)):
            assert type(leaf) in (float, int, str, bool)
            assert not isinstance(leaf, float) or math.isfinite(leaf)


def test_a_single_window_migrates_nothing():
    history = random_history(4, windows=2)
    metrics = metrics_of(evaluation_of(reference_scores(history)))
    assert metrics["public"]["migrated_experts"] == 0.0


def test_the_chosen_scoring_is_the_combined_score():
    metrics = {scoring: metrics_of(scored_by(scoring)) for scoring in SCORINGS}
    for scoring, each in metrics.items():
        assert each["combined_score"] == each["private"]["combined_scores"][scoring]
    assert len({each["combined_score"] for each in metrics.values()}) == len(SCORINGS)


def test_a_refused_program_scores_nothing_and_is_told_why(refused, tmp_path):
    metrics, correct = written(tmp_path, refused)
    assert correct["correct"] is False
    assert correct["error"] == "window 3: phy2log: layer 1 has no slot for expert 2"
    assert metrics["combined_score"] == 0.0
    assert metrics["public"] == {}
    assert (metrics["num_valid_runs"], metrics["num_invalid_runs"]) == (0, 1)
    assert metrics["all_validation_errors"] == [correct["error"]]
    assert correct["error"] in metrics["text_feedback"]
    assert "line 7, in pack" in metrics["text_feedback"]


@pytest.mark.parametrize("outcome", ["scored", "refused"])
def test_shinkaevolve_reads_the_results(outcome, request, tmp_path):
    from shinka.launch.local import load_results
    from shinka.prompts.prompts_base import format_text_feedback_section, perf_str

    metrics, correct = written(tmp_path, request.getfixturevalue(outcome))
    loaded = load_results(str(tmp_path))
    assert loaded["metrics"] == metrics
    assert loaded["correct"]["correct"] is (outcome == "scored") is correct["correct"]
    prompt = perf_str(loaded["metrics"]["combined_score"], loaded["metrics"]["public"])
    assert f"Combined score to maximize: {metrics['combined_score']:.2f}".startswith(prompt[:31])
    assert metrics["text_feedback"] in format_text_feedback_section(metrics["text_feedback"])


def test_a_misuse_leaves_no_score_for_shinkaevolve(scored, tmp_path):
    from shinka.launch.local import load_results

    written(tmp_path, scored)
    prepare(tmp_path)
    write_misuse(tmp_path, "no such trace")
    loaded = load_results(str(tmp_path))
    assert loaded["metrics"] == {}
    assert loaded["correct"] == {"correct": False, "error": "not evaluated: no such trace"}


def test_preparing_removes_stale_results_and_nothing_else(tmp_path):
    (tmp_path / "plots").mkdir()
    stale = ["metrics.json", "correct.json", "plots/gpu_loads.png", "plots/balancedness.png"]
    mine = ["notes.txt", "job_log.out", "plots/mine.png", "metrics.json.bak"]
    for name in stale + mine:
        (tmp_path / name).write_text("x")
    prepare(tmp_path)
    assert not any((tmp_path / name).exists() for name in stale)
    assert all((tmp_path / name).read_text() == "x" for name in mine)
    assert len(list(tmp_path.rglob("*"))) == len(mine) + 1


def test_preparing_makes_the_folder(tmp_path):
    prepare(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("below", ["", "/results"])
def test_a_folder_that_cannot_be_written(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / f"file{below}"
    with pytest.raises(UserError, match=f"cannot write to the results folder {folder}: "):
        prepare(folder)
    assert (tmp_path / "file").read_text() == "mine"


def shown(metrics):
    return table(metrics, Path("results"), "python evaluate.py --program_path program.py --fresh 3")


def test_the_table_says_it_at_a_glance():
    metrics = metrics_of(scored_by("openevolve"))
    lines = shown(metrics).splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["program", "trace", "deployment", "model"]
    assert "32 slots on 8 GPUs of 2 nodes" in lines[2]
    assert f"{metrics['combined_score']:.4f}" in lines[4]
    text = "\n".join(lines)
    assert lines[4].split()[-2:] == ["scoring", "openevolve"]
    assert all(line[23] == " " for line in lines[:-2]), "names and values keep their columns"
    assert "66.7 x as fast as the seed" in text
    assert "3 ms" in text
    assert "none, in a test" in text
    assert max(map(len, lines)) <= 80
    assert lines[-4].startswith("most to gain            speed, ")
    assert lines[-3].split() == ["results", "results/metrics.json"]
    assert lines[-2:] == ["next:", "  python evaluate.py --program_path program.py --fresh 3"]


def test_the_table_shows_fresh_traces_and_the_gap(scored):
    metrics = metrics_of(scored)
    why = "window 0: phy2log: layer 0 has no slot"
    records = [
        {"trace": "kimi-k2", "seed": str(2**128 - 1), "score": 0.5, "refusal": None},
        {"trace": "bursty", "seed": "5", "score": 0.0, "refusal": why},
    ]
    metrics["private"]["fresh"] = {"scores": records, "mean": 0.25, "gap": 0.1}
    text = shown(json.loads(json.dumps(metrics)))
    assert "on fresh traces         0.2500      0.1000 below the known trace" in text
    assert f"  kimi-k2               0.5000      seed {2**128 - 1}" in text
    assert "  bursty                0.0000      window 0: phy2log: layer 0 has no slot" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_table_of_a_refused_program_has_the_reason(refused):
    text = shown(metrics_of(refused))
    assert "REFUSED, score 0\n  window 3: phy2log: layer 1 has no slot for expert 2\n" in text
    assert text.startswith("program                 program.py")
    assert "text_feedback in results/metrics.json" in text.splitlines()[-1]


def test_the_table_shows_any_name_of_a_file(refused):
    metrics = metrics_of(refused)
    metrics["private"]["program"] = "a\n\x1b[31m\udcff.py"
    text = table(metrics, Path("\udcff"), "python evaluate.py")
    assert text.startswith("program                 a??[31m?.py\n")
    assert text.encode()


def test_what_is_kept_of_the_tokens_per_second_is_everywhere():
    metrics = metrics_of(scored_by("throughput"))
    public, parts = metrics["public"], metrics["private"]["throughput"]
    kept = [public["kept_prefill"], public["kept_decode"]]
    assert metrics["combined_score"] == pytest.approx(np.mean(kept))
    for phase, one in zip(("prefill", "decode"), kept):
        assert one + sum(parts[phase]["lost"].values()) == pytest.approx(1)
        assert f"{phase} keeps {one:.4f} of the ideal tokens per second" in metrics["text_feedback"]
    text = shown(json.loads(json.dumps(metrics)))
    assert f"  kept                  {kept[0]:.4f}      {kept[1]:.4f}      of the ideal" in text
    assert "  served                on h200, dispatch even" in text

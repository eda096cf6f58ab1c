"""Finalists on unseen traces. Run: python -m pytest tests/evolution/test_confirm.py"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from eplb.common import UserError
from eplb.evaluation.measure import Criteria
from eplb.evolution import confirm, resume
from eplb.evolution.rundb import read_run


@pytest.fixture
def run(recorder):
    """A start program and ten others, of which two differ in layout and comments only."""
    run = recorder(num_islands=2)
    start = run.add(0, combined_score=0.3)
    for generation in range(1, 11):
        run.add(generation, start, combined_score=0.4 + generation / 100)
    run.add(11, start, combined_score=0.8, code=f"{run.programs[10].code}\n# no change\n\n")
    run.add(12, start, combined_score=0.9, correct=False)
    for program in run.programs:
        folder = run.folder / f"gen_{program.generation}"
        folder.mkdir()
        (folder / "main.py").write_text(program.code)
    return run


@pytest.fixture
def scored(monkeypatch):
    """Scores on unseen traces by program, in place of minutes of scoring; what was asked for."""
    asked = {}

    def score_fresh(files, traces, sandbox, criteria, progress):
        codes = [file.read_text() for file in files]
        asked.update(criteria=criteria, codes=codes, traces=traces)
        steps = [int(code.partition("STEPS = ")[2].split()[0]) for code in codes]
        refused = {"seed": "7", "score": 0.0, "refusal": "refused"}
        scored = {"seed": "7", "refusal": None}
        return [[refused if n == 9 else scored | {"score": 0.7 - n / 20}] * 3 for n in steps]

    monkeypatch.setattr(confirm, "score_fresh", score_fresh)
    return asked


def test_finalists_are_the_best_that_differ_and_the_start_program(run):
    chosen = confirm.finalists(read_run(run.folder))
    assert [program.generation for program in chosen] == [11, 9, 8, 7, 6, 5, 4, 3, 0]
    assert not chosen[-1].is_copy


def test_the_winner_there_is_kept(run, scored):
    line = confirm.confirm(read_run(run.folder))
    # By the fake scores the start program is best, 0.7, and of the others generation 3.
    assert line.startswith("confirmed on 3 unseen traces: gen_0 scores 0.7000 there, +0.0000 to")
    assert line.endswith("on the known trace 0.3000, a gap of -0.4000") and "\n" not in line
    assert (run.folder / "best" / "main.py").read_text() == run.programs[0].code
    written = json.loads((run.folder / "best" / "confirmation.json").read_text())
    assert written["winner"] == 0 and len(written["programs"]) == 9
    [row] = [row for row in written["programs"] if row["generation"] == 8]
    assert row["known"] == pytest.approx(0.48) and row["fresh"] == pytest.approx(0.3)
    assert row["gap"] == pytest.approx(0.18)
    assert len(row["scores"]) == 3 and all(int(score["seed"]) > 0 for score in row["scores"])
    refused = next(row for row in written["programs"] if row["generation"] == 9)
    assert refused["fresh"] == 0.0 and refused["scores"][0]["refusal"] == "refused"
    assert len({trace.preset for trace in scored["traces"]}) > 1
    assert min(trace.seed.bit_length() for trace in scored["traces"]) > 64
    confirm.confirm(read_run(run.folder))  # again, over what is there
    assert sorted(path.name for path in run.folder.glob("*best*")) == ["best"]


def test_programs_are_scored_as_the_run_scores_them(run, scored):
    (run.folder / ".hydra").mkdir()
    given = {"extra_cmd_args": {"locality": "require", "scoring": "adrs", "trace": "x.json"}}
    text = yaml.safe_dump({"distributed_job_config": given})
    (run.folder / ".hydra" / "config.yaml").write_text(text)
    confirm.confirm(read_run(run.folder))
    assert scored["criteria"] == Criteria(require_locality=True, scoring="adrs")


def test_half_a_best_program_is_replaced(run):
    (run.folder / "best").mkdir()
    held = read_run(run.folder)
    resume.keep(run.folder, held.best)
    assert (run.folder / "best" / "main.py").read_text() == held.best.code
    assert not (run.folder / "best" / "confirmation.json").exists()


def test_nothing_to_confirm(recorder):
    run = recorder()
    run.add(0, correct=False)
    with pytest.raises(UserError, match="nothing to confirm"):
        confirm.confirm(read_run(run.folder))


def test_the_command_on_a_folder_that_is_none(tmp_path):
    command = [sys.executable, "-m", "eplb.evolution.confirm", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

"""Failures, models and costs, against the database itself.

Run it with `pytest tests/report/test_accounts.py`.
"""

from __future__ import annotations

import math
import shutil
import sqlite3
from pathlib import Path

import pytest

from eplb.report import accounts
from eplb.report.program import read


@pytest.mark.parametrize(
    ("told", "summary"),
    [
        ("", "no reason recorded"),
        ("\n\n  timed out after 60.5 s\nmore", "timed out after # s"),
        ("phy2log: layer 3, slot 17 holds expert -1", "phy2log: layer #, slot # holds expert #"),
        ("phy2log has dtype float32; it must be int64", None),
        (
            "lists slots [1, 22, 333]; phy2log has it in [4]",
            "lists slots [#]; phy2log has it in [#]",
        ),
        ("Traceback (most recent call last):\n  File 'x'\nKeyError: 7", "KeyError: #"),
        ("x" * 500, "x" * 159 + "…"),
    ],
)
def test_reasons_that_differ_only_in_numbers(told: str, summary: str | None) -> None:
    assert accounts.summarise(told) == (summary or told)


def test_failures_of_all_stages(finished_run: Path) -> None:
    found = {(f.stage, f.reason): f for f in accounts.failures(read(finished_run))}
    assert {key: f.generations for key, f in found.items()} == {
        ("Evaluation failed", "logcnt: layer #, expert # claims #"): [3, 10, 17, 24],
        ("Proposal given up", "SEARCH text not found"): [31],
        ("Edit asked for again", "SEARCH text not found"): [31],
    }


def test_the_feedback_tells_the_reason_where_the_folder_does_not(
    finished_run: Path, tmp_path: Path
) -> None:
    shutil.copy(finished_run / "programs.sqlite", tmp_path)
    [evaluation, proposal] = accounts.failures(read(tmp_path))
    assert evaluation.reason == "Rejected." and len(evaluation.generations) == 4
    assert proposal.stage == "Proposal given up"


def test_an_evaluation_that_left_nothing(recorder) -> None:
    run = recorder(num_islands=1)
    run.add(0, correct=False, metadata={"results_missing": True})
    [failure] = accounts.failures(read(run.folder))
    assert failure.reason == "the evaluation left no results"


def test_cost_is_what_the_database_adds_up(finished_run: Path) -> None:
    bill = accounts.bill(read(finished_run))
    with sqlite3.connect(f"file:{finished_run}/programs.sqlite?immutable=1", uri=True) as database:
        [[edits, novelty]] = database.execute(
            "SELECT sum(json_extract(metadata, '$.api_costs')),"
            " sum(json_extract(metadata, '$.novelty_cost')) FROM programs"
        )
        [[given_up]] = database.execute(
            "SELECT sum(json_extract(details, '$.api_costs')) FROM attempt_log"
        )
    assert math.isclose(bill.by_purpose["edits"], edits + given_up)
    assert math.isclose(bill.by_purpose["novelty checks"], novelty)
    assert math.isclose(bill.given_up, given_up)
    assert math.isclose(bill.total, edits + novelty + given_up)
    assert math.isclose(bill.evaluating, 15.0)


def test_models(finished_run: Path) -> None:
    run = read(finished_run)
    models = {model.name: model for model in accounts.models(run)}
    assert set(models) == {"model-0", "model-1", "model-2"}
    by_id = {p.id: p for p in run.programs}
    for name, model in models.items():
        made = [p for p in run.programs if p.model == name]
        given_up = name == "model-1"
        assert model.proposals == len(made) + given_up
        assert model.correct == sum(p.correct for p in made)
        assert model.best == max(p.score for p in made if p.score is not None)
        better = [p for p in made if p.correct and p.score > by_id[p.parent_id].score]
        assert model.improved == len(better)
        assert (model.input_tokens, model.output_tokens) == (1000 * len(made), 100 * len(made))
        assert math.isclose(model.cost, 0.011 * len(made) + 0.5 * given_up)
    highest, records = 0.0, 0
    for program in sorted(run.programs, key=lambda p: p.timestamp):
        if (program.score or 0) > highest:
            highest = program.score
            records += program.generation > 0
    assert sum(model.records for model in models.values()) == records

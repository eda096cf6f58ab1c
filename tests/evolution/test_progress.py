"""The progress line, and the reasons to end a run: `pytest tests/evolution/test_progress.py`."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from eplb.common import UserError
from eplb.evolution import progress
from eplb.evolution.progress import Watcher
from eplb.evolution.rundb import read_run


def watch(run, monkeypatch, steps=(), *, silent=None, idle=60.0):
    """Let a watcher see what the database holds after each step, until it ends the run or is done.

    A step that is an exception is one that reading raises.
    """
    nothing = UserError("no program yet")
    states = [nothing]
    for step in steps:
        if not isinstance(step, Exception):
            step(run)
            step = read_run(run.folder)
        states.append(step)
    states += [nothing, nothing]
    seen, reasons = threading.Event(), []

    def read(folder):
        state = states.pop(0) if states else nothing
        if not states and silent is None:
            seen.set()
        if isinstance(state, Exception):
            raise state
        return state

    def end(reason):
        reasons.append(reason)
        seen.set()

    monkeypatch.setattr(progress, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(progress, "read_run", read)
    # Every look finds the database changed.
    monkeypatch.setattr(Watcher, "_stamp", property(lambda self: None, lambda *_: None), False)
    watcher = Watcher(run.folder, 4, lambda: silent, end, idle_seconds=idle)
    watcher.start()
    assert seen.wait(10)
    watcher.finish()
    return reasons


def test_a_line_for_every_change(recorder, monkeypatch, capsys):
    steps = [
        lambda run: run.add(0, combined_score=0.0),
        lambda run: None,
        lambda run: run.add(1, combined_score=0.5, metadata={"api_costs": 0.25}),
        lambda run: run.add(2, combined_score=0.3) and run.add(3, combined_score=0.75),
    ]
    assert watch(recorder(num_islands=1), monkeypatch, steps) == []
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("1/4 generations  best 0.0000  cost $0.00  time left ")
    assert lines[1].startswith("2/4 generations  best 0.5000  cost $0.25  time left ")
    assert lines[2] == "4/4 generations  best 0.7500  cost $0.25  time left 00:00"


def test_a_bar_on_a_terminal(recorder, monkeypatch, capsys):
    """It begins when the run does, and what is said after it begins on a line of its own."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    steps = [lambda run: run.add(0, combined_score=0.25), lambda run: run.add(1)]
    assert watch(recorder(num_islands=1), monkeypatch, steps) == []
    shown = terminal.getvalue()
    assert "0/4 generations  best none yet  time left ?" in shown
    assert "2/4 generations  best 0.2500  cost $0.00  time left " in shown and shown.endswith("\n")
    assert capsys.readouterr().out == ""


def test_a_database_that_cannot_be_read_for_a_moment(recorder, monkeypatch, capsys):
    held = UserError("held for long")
    steps = [held, lambda run: run.add(0, combined_score=0.5), held, held]
    assert watch(recorder(num_islands=1), monkeypatch, steps) == []
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_start_program_that_cannot_be_scored_ends_the_run(recorder, monkeypatch):
    """ShinkaEvolve would go on and pay for proposals that cannot be scored either."""

    refused = {
        "text_feedback": "Refused: slot 3\n\nThe contract: ...",
        "metadata": {"stderr_log": "x"},
    }
    crashed = {"metadata": {"stderr_log": "evaluating\nerror: no trace\n"}}
    for fields, words in ((refused, "Refused: slot 3"), (crashed, "error: no trace"), ({}, "see ")):
        run = recorder(words, num_islands=1)
        reasons = watch(
            run, monkeypatch, [lambda run, has=fields: run.add(0, correct=False, **has)]
        )
        assert reasons[0].startswith(f"the start program cannot be scored: {words}")


def test_silent_models_end_the_run(recorder, monkeypatch):
    """ShinkaEvolve would ask on for minutes, generation after generation."""
    reasons = watch(recorder(num_islands=1), monkeypatch, silent="x: refused", idle=0.0)
    assert "the models stopped answering: x: refused" in reasons


@pytest.mark.parametrize(
    ("says", "shown"),
    [
        (None, "it said nothing;"),
        ("", "it said nothing;"),
        ("I would sort\nthe experts first.", "it said 'I would sort the experts first.';"),
    ],
)
def test_answers_of_no_use_end_the_run_with_the_last_of_them(recorder, monkeypatch, says, shown):
    def give_up(generation):
        details = {"failure_reason": "no edit", "model_name": "x"}
        return lambda run: run.database.record_attempt_event(
            generation, "proposal", "failed", details
        )

    run = recorder(num_islands=1)
    if says is not None:
        attempt = run.folder / "gen_3" / "attempts" / "patch_1"
        attempt.mkdir(parents=True)
        (attempt / "llm_response.txt").write_text(says)
    steps = [lambda run: run.add(0), give_up(1), give_up(2)]
    assert watch(run, monkeypatch, steps) == []
    [reason] = watch(run, monkeypatch, [give_up(3)])
    assert "no answer of x can be used (no edit); " + shown in reason and "offline=true" in reason

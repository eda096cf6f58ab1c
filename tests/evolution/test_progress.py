"""The progress line, and the reasons to end a run."""

from __future__ import annotations

import threading

from eplb.evolution import progress
from eplb.evolution.progress import Watcher
from eplb.evolution.rundb import Status


def watch(tmp_path, monkeypatch, *, statuses=(), failure=None, silent=None, idle=60.0):
    """Run a watcher over the statuses until it ends the run or has seen them all."""
    left = [Status(), *statuses]
    seen, reasons = threading.Event(), []

    def next_status(folder):
        if len(left) == 1 and silent is None:
            seen.set()
        return left.pop(0) if len(left) > 1 else left[0]

    def end(reason):
        reasons.append(reason)
        seen.set()

    monkeypatch.setattr(progress, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(progress, "read_status", next_status)
    monkeypatch.setattr(progress, "seed_failure", lambda folder: failure)
    watcher = Watcher(tmp_path, 4, lambda: silent, end, idle_seconds=idle)
    watcher.start()
    seen.wait(10)
    watcher.finish()
    return reasons


def test_a_line_for_every_change(tmp_path, monkeypatch, capsys):
    statuses = [Status(1, 0.0), Status(1, 0.0), Status(2, 0.25, 0.5, 1), Status(4, 1.0, 0.75, 3)]
    assert watch(tmp_path, monkeypatch, statuses=statuses) == []
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("generation 1/4  best none yet  time left ")
    assert lines[1].startswith("generation 2/4  best 0.5000  time left ")
    assert lines[1].endswith("cost $0.25")
    assert lines[2] == "generation 4/4  best 0.7500  time left 0 s  cost $1.00"


def test_a_seed_that_cannot_be_scored_ends_the_run(tmp_path, monkeypatch):
    """ShinkaEvolve would go on and pay for proposals that cannot be scored either."""
    reasons = watch(tmp_path, monkeypatch, statuses=[Status(1, 0.0)], failure="no trace")
    assert reasons == ["the seed program cannot be scored: no trace"]


def test_silent_models_end_the_run(tmp_path, monkeypatch):
    """ShinkaEvolve would ask on for minutes, generation after generation."""
    reasons = watch(tmp_path, monkeypatch, silent="x: refused", idle=0.0)
    assert "the models stopped answering: x: refused" in reasons

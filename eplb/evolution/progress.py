"""Watches a run from a thread of its own: a progress line, and reasons to end it.

It reads ShinkaEvolve's database only, so it serves `run_evo.py` and `shinka_launch` alike.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from eplb.common import UserError
from eplb.evolution.rundb import DATABASE, Run, read_run, text

POLL_SECONDS = 0.5


class Watcher:
    """Shows how far a run is.

    folder: the results folder
    target: generations to do, None for as many as the budget allows
    why_silent: called when a minute passed without a generation; says why no model answers
    end: called with a reason when the run cannot go on
    """

    def __init__(
        self,
        folder: Path,
        target: int | None,
        why_silent: Callable[[], str | None],
        end: Callable[[str], None],
        idle_seconds: float = 60.0,
    ) -> None:
        self.folder, self.target = folder, target
        self.why_silent, self.end, self.idle_seconds = why_silent, end, idle_seconds
        self._stamp: list[tuple[int, int]] = []
        self.run = self._read(Run(folder))
        # `run_evo.py` sends what ShinkaEvolve prints elsewhere; these lines stay here.
        self.out = sys.stdout
        self._first = self.run.generations
        self._began = self._changed = time.monotonic()
        self._finished = threading.Event()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=target, initial=self._first, unit="gen", dynamic_ncols=True)
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _watch(self) -> None:
        checked_seed = False
        while not self._finished.wait(POLL_SECONDS):
            run = self._read(self.run)
            if run.generations != self.run.generations:
                self._changed = time.monotonic()
                self.show(run)
            if run.seed is not None and not checked_seed:
                checked_seed = True
                if not run.seed.correct:
                    self.end(f"the start program cannot be scored: {why_refused(run)}")
            if time.monotonic() - self._changed > self.idle_seconds:
                self._changed = time.monotonic()
                reason = self.why_silent()
                if reason:
                    self.end(f"the models stopped answering: {reason}")

    def finish(self) -> Run:
        """Stop watching, and return what the run holds at last."""
        self._finished.set()
        self._thread.join()
        run = self._read(self.run)
        if run.generations != self.run.generations:
            self.show(run)
        if self._bar is not None:
            self._bar.close()
        return run

    def _read(self, last: Run) -> Run:
        """What the database holds now; ``last`` where it did not change or has no program yet."""
        try:
            files = [path.stat() for path in sorted(self.folder.glob(f"{DATABASE}*"))]
            stamp = [(file.st_mtime_ns, file.st_size) for file in files]
            if stamp == self._stamp:
                return last
            run = read_run(self.folder)
        except (OSError, UserError):
            return last
        self._stamp = stamp
        return run

    def show(self, run: Run) -> None:
        """Print the progress line, or move the bar."""
        if not self.run.generations:  # the start-up says nothing about the generations to come
            self._first, self._began = run.generations, time.monotonic()
        self.run = run
        best = "none yet" if run.best is None else f"{run.best.score:.4f}"
        if self._bar is not None:
            self._bar.n = run.generations
            self._bar.set_postfix_str(f"best {best}, cost ${run.cost:.2f}")
            return
        of = f"/{self.target}" if self.target else ""
        print(
            f"{run.generations}{of} generations  best {best}  "
            f"time left {self._time_left()}  cost ${run.cost:.2f}",
            file=self.out,
            flush=True,
        )

    def _time_left(self) -> str:
        done = self.run.generations - self._first
        if not self.target or not done:
            return "unknown"
        each = (time.monotonic() - self._began) / done
        minutes, seconds = divmod(round(each * max(0, self.target - self.run.generations)), 60)
        return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def why_refused(run: Run) -> str:
    """Why the evaluation refused the start program, in its own words."""
    results = run.folder / "gen_0" / "results"
    try:
        reason = text(json.loads((results / "correct.json").read_text("utf-8")).get("error"))
    except (OSError, ValueError, AttributeError):
        reason = ""
    lines = (reason or text(run.seed.metadata.get("stderr_log"))).splitlines()
    return lines[-1] if lines else f"see {results}"

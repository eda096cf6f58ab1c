"""Watches a run from a thread of its own: a progress line, and reasons to end it.

It reads ShinkaEvolve's database only, so it serves `run_evo.py` and `shinka_launch` alike.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from eplb.evolution.rundb import Status, read_status, seed_failure

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
        self.status = read_status(folder)
        # `run_evo.py` sends what ShinkaEvolve prints elsewhere; these lines stay here.
        self.out = sys.stdout
        self._first = self.status.generations
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
            status = read_status(self.folder)
            if status.generations != self.status.generations:
                self._changed = time.monotonic()
                self.show(status)
            if status.generations and not checked_seed:
                checked_seed = True
                failure = seed_failure(self.folder)
                if failure:
                    self.end(f"the seed program cannot be scored: {failure}")
            if time.monotonic() - self._changed > self.idle_seconds:
                self._changed = time.monotonic()
                reason = self.why_silent()
                if reason:
                    self.end(f"the models stopped answering: {reason}")

    def finish(self) -> Status:
        """Stop watching, and return the final status."""
        self._finished.set()
        self._thread.join()
        status = read_status(self.folder)
        if status.generations != self.status.generations:
            self.show(status)
        if self._bar is not None:
            self._bar.close()
        return status

    def show(self, status: Status) -> None:
        """Print the progress line, or move the bar."""
        if not self.status.generations:  # the start-up says nothing about the generations to come
            self._first, self._began = status.generations, time.monotonic()
        self.status = status
        best = "none yet" if status.best_score is None else f"{status.best_score:.4f}"
        if self._bar is not None:
            self._bar.n = status.generations
            self._bar.set_postfix_str(f"best {best}, cost ${status.cost:.2f}")
            return
        of = f"/{self.target}" if self.target else ""
        print(
            f"generation {status.generations}{of}  best {best}  "
            f"time left {self._time_left()}  cost ${status.cost:.2f}",
            file=self.out,
            flush=True,
        )

    def _time_left(self) -> str:
        done = self.status.generations - self._first
        if not self.target or not done:
            return "unknown"
        each = (time.monotonic() - self._began) / done
        minutes, seconds = divmod(round(each * max(0, self.target - self.status.generations)), 60)
        return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"

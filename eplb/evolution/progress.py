"""Watches a run from a thread of its own: a progress line, and reasons to end it.

It reads the results folder only. Not covered: what ends a run (`eplb.evolution.run` does).
"""

from __future__ import annotations

import io
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from eplb.common import UserError
from eplb.evolution.rundb import DATABASE, Run, read_run, text

POLL_SECONDS = 0.25
# A proposal is given up after nine answers that cannot be used, and a few are on their way at a
# time: so many in a row, without a program, are the model's habit.
GIVEN_UP = 3
LEAST_FREE_BYTES = 8 << 20
LINE = "{n_fmt}/{total_fmt} generations  {desc}  time left {remaining}"


class Watcher:
    """Shows how far a run is.

    folder: the results folder
    target: generations to do
    why_silent: called when a minute passed without a generation; says why no model answers
    end: called with a reason when the run cannot go on
    """

    def __init__(
        self,
        folder: Path,
        target: int,
        why_silent: Callable[[], str | None],
        end: Callable[[str], None],
        idle_seconds: float = 60.0,
    ) -> None:
        self.folder, self.idle_seconds = folder, idle_seconds
        self.why_silent, self.end = why_silent, end
        self._stamp: list[tuple[int, int]] = []
        self.run = self._read(Run(folder))
        # What ShinkaEvolve prints goes elsewhere; these lines stay here.
        self._out, self._err = sys.stdout, sys.stderr
        self._on_terminal = self._err.isatty()
        self._bar = tqdm(
            total=target,
            initial=self.run.generations,
            desc="best none yet",
            bar_format=("{bar:20} " if self._on_terminal else "") + LINE,
            smoothing=0,
            delay=1,  # not before `start`
            file=self._err if self._on_terminal else io.StringIO(),
        )
        self._changed = time.monotonic()
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def start(self) -> None:
        self._bar.delay = 0
        self._bar.refresh()
        self._thread.start()

    def say(self, words: str) -> None:
        """Print to where the run began to; end the run where nobody can read it."""
        try:
            print(words, file=self._out, flush=True)
        except OSError as error:
            self.end(f"cannot write to standard output ({error.strerror})")

    def warn(self, words: str) -> None:
        self._bar.close()
        print(words, file=self._err, flush=True)

    def finish(self) -> Run:
        """Stop watching, and return what the run holds at last."""
        self._finished.set()
        self._thread.join()
        self._look()
        self._bar.close()
        return self.run

    def _watch(self) -> None:
        while not self._finished.wait(POLL_SECONDS):
            self._look()
            reason = self._why_end()
            if reason:
                self.end(reason)

    def _why_end(self) -> str | None:
        if self.run.seed is not None and not self.run.seed.correct:
            return f"the start program cannot be scored: {_why_refused(self.run)}"
        if shutil.disk_usage(self.folder).free < LEAST_FREE_BYTES:
            return f"the disk that holds {self.folder} is full"
        if time.monotonic() - self._changed > self.idle_seconds:
            self._changed = time.monotonic()
            silent = self.why_silent()
            return silent and f"the models stopped answering: {silent}"
        return useless_answers(self.run)

    def _look(self) -> None:
        last, self.run = self.run, self._read(self.run)
        if self.run.generations == last.generations:
            return
        self._changed = time.monotonic()
        if not last.generations:  # the start-up says nothing about the generations to come
            self._bar.initial = self.run.generations
            self._bar.start_t = self._bar.last_print_t = time.time()
        best = "none yet" if self.run.best is None else f"{self.run.best.score:.4f}"
        self._bar.n = self.run.generations
        self._bar.set_description_str(f"best {best}  cost ${self.run.cost:.2f}")
        if not self._on_terminal:
            self.say(str(self._bar))

    def _read(self, last: Run) -> Run:
        """What the database holds now; ``last`` where it did not change or has no program yet."""
        try:
            files = map(Path.stat, sorted(self.folder.glob(f"{DATABASE}*")))
            stamp = [(file.st_mtime_ns, file.st_size) for file in files]
            if stamp == self._stamp:
                return last
            run = read_run(self.folder)
        except (OSError, UserError):
            return last
        self._stamp = stamp
        return run


def _why_refused(run: Run) -> str:
    """Why the evaluation refused the start program, in its own words."""
    errors = text(run.seed.metadata.get("stderr_log")).splitlines()
    told = [*run.seed.feedback.splitlines()[:1], *errors[-1:]]
    return told[0] if told else f"see {run.folder / 'gen_0' / 'results'}"


def useless_answers(run: Run) -> str | None:
    """What models answered, where the last `GIVEN_UP` proposals were all given up."""
    last = max((program.generation for program in run.programs), default=0)
    given_up = [failed for failed in run.failed_proposals if failed.generation > last]
    if len(given_up) < GIVEN_UP:
        return None
    failed = given_up[-1]
    answers = (run.folder / f"gen_{failed.generation}" / "attempts").rglob("llm_response.txt")
    answer = next((" ".join(path.read_text("utf-8", "replace").split()) for path in answers), "")
    shown = repr(answer[:200]) if answer else "nothing"
    return (
        f"no answer of {failed.model or 'the models'} can be used "
        f"({text(failed.details.get('failure_reason')) or 'no reason given'}); it said {shown}; "
        "name other models (models=[…]), give more room "
        "(evo_config.llm_kwargs.max_tokens=…) or add offline=true"
    )

"""Runs untrusted programs in sandboxed processes and times them.

Covered: starting the sandbox, one fresh process a run, one window at a time, the clock, and every
way in which a program can fail to answer. The process knows the windows that it was given and
nothing of those to come. Not covered: whether an answer is right (`eplb.placement.validate`), and
what a sandbox without bubblewrap, landlock or seccomp lets through; `Sandbox.isolation` names
which of them were in force.

Subtracted from each measured time is the median of an empty round trip.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eplb.common import UserError
from eplb.placement import Deployment
from eplb.sandbox import isolation
from eplb.sandbox.inside import protocol
from eplb.sandbox.pinning import one_processor
from eplb.sandbox.process import Answer, Candidate, Refused, Silence

__all__ = ["Answer", "Refused", "Run", "Sandbox"]

DEFAULT_TIMEOUT = 60.0
# What a program may take beyond what torch itself has mapped; the public trace needs a fraction.
MEMORY_BYTES = 2 << 30

_START_SECONDS = 120.0
_END_SECONDS = 5.0
_EMPTY_ROUND_TRIPS = 25
# Those between SIGRTMIN and SIGRTMAX have no name.
_SIGNALS = {number.value: number.name for number in signal.Signals}
_NOTHING = """
import torch

NOTHING = (torch.empty(0, 0, dtype=torch.int64),) * 3


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    return NOTHING
"""


@dataclass(frozen=True)
class Run:
    """One fresh process that answered every window in order.

    seconds: [windows] float64, wall time of each call
    """

    answers: list[Answer]
    seconds: np.ndarray


class Sandbox:
    """A process that has imported torch and forks a fresh child for every run.

    Used as a context manager: torch is imported in the background from the start of the block.

    timeout: seconds that one run may take, loading the program included
    hidden: files and folders that programs must not see, beside the project itself
    isolation: the safeguards in force, known after the first run, e.g.
        "bubblewrap, landlock, seccomp"
    """

    def __init__(self, timeout: float = DEFAULT_TIMEOUT, hidden: tuple[Path, ...] = ()) -> None:
        self.timeout = timeout
        self.isolation = "unknown: nothing has run"
        # Not `Path.resolve`, which takes offence at links in a circle.
        real = (Path(os.path.realpath(path)) for path in hidden)
        self._hidden = [*isolation.project_paths(), *real]
        self._process: subprocess.Popen | None = None
        self._control: socket.socket | None = None
        self._stderr = tempfile.TemporaryFile()
        self._bubblewrap = True
        self._empty_round_trip: dict[tuple[int, ...], float] = {}

    def __enter__(self) -> Sandbox:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._stderr.close()

    def run(
        self,
        program: Path,
        windows: np.ndarray,
        deployment: Deployment,
        answered: Callable[[], None] = lambda: None,
    ) -> Run:
        """Load ``program`` in a fresh process and have it answer ``windows`` in order.

        windows: [windows, layers, experts], tokens per expert; handed over as float32
        answered: called after every window, off the clock

        Raises `Refused`, or `UserError` where the program or the sandbox's Python cannot be read.
        """
        try:
            source = program.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise Refused(f"the program is not UTF-8 text: {error.reason}") from error
        except OSError as error:
            raise UserError(f"cannot read the program {program}: {error.strerror}") from error
        self._await_ready()
        with one_processor() as cpu:
            empty = self._measure_empty_round_trip(windows.shape[1:], cpu)
            run = self._run(source, windows, deployment, cpu, answered)
        return Run(run.answers, np.maximum(run.seconds - empty, 0.0))

    def _measure_empty_round_trip(self, shape: tuple[int, ...], cpu: int | None) -> float:
        """Median seconds of a call that takes a window and answers with nothing."""
        if shape not in self._empty_round_trip:
            windows = np.zeros((_EMPTY_ROUND_TRIPS, *shape), np.float32)
            run = self._run(_NOTHING, windows, Deployment(1, 1, 1, 1), cpu)
            self._empty_round_trip[shape] = float(np.median(run.seconds))
        return self._empty_round_trip[shape]

    def _run(
        self,
        source: str,
        windows: np.ndarray,
        deployment: Deployment,
        cpu: int | None,
        answered: Callable[[], None] = lambda: None,
    ) -> Run:
        try:
            deadline = time.monotonic() + self.timeout
            with Candidate(source, windows.shape[1:], deployment, deadline) as child:
                kernel = child.load(self._control, self._confinement(cpu))
                parts = ["bubblewrap"] * self._bubblewrap + kernel
                self.isolation = ", ".join(parts) or "process limits only"
                timed = []
                for window in windows.astype(np.float32):
                    timed.append(child.answer(window))
                    answered()
                child.finish()
        except Silence as silence:
            raise Refused(self._why(silence)) from silence
        except Refused:
            self._settle()
            raise
        if self._settle() is None:
            raise Refused("the program's process did not end after its last answer")
        answers, seconds = zip(*timed, strict=True)
        return Run(list(answers), np.array(seconds))

    def _confinement(self, cpu: int | None) -> dict:
        readable = None if self._bubblewrap else isolation.readable_paths(self._hidden)
        return {
            "cpu": cpu,
            "memory": MEMORY_BYTES,
            "seconds": math.ceil(self.timeout) + 1,
            "readable": readable,
        }

    def _why(self, silence: Silence) -> str:
        """Put a child's silence into words."""
        if silence.timed_out:
            self._kill()
            return f"the program took longer than {self.timeout:g} s {silence.doing}"
        status = self._settle()
        if status is None:
            return f"the program took its sandbox down {silence.doing}"
        if status < 0:
            name = _SIGNALS.get(-status, f"signal {-status}")
            return f"the program was ended by {name} {silence.doing}"
        return (
            f"the program's process ended with exit status {status} {silence.doing} "
            "(it must return its answer, and start no thread or process)"
        )

    def _settle(self) -> int | None:
        """Wait for the child's exit status; None, and no zygote left, where it does not come."""
        try:
            return self._receive(_END_SECONDS)["status"]
        except (EOFError, OSError):
            self._kill()
            return None

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        command = None
        if self._bubblewrap:
            command = isolation.bubblewrap_command(theirs.fileno(), self._hidden)
            self._bubblewrap = command is not None
        self._process = subprocess.Popen(
            command or isolation.plain_command(theirs.fileno()),
            env=isolation.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        self._ready = False

    def _await_ready(self) -> None:
        """Wait until torch is imported; leave bubblewrap out where it does not work."""
        if self._process is None:
            self._start()
        if self._ready:
            return
        try:
            self._receive(_START_SECONDS)
        except (EOFError, OSError) as error:
            if not self._bubblewrap:
                message = f"the sandboxed Python does not start: {self._last_words()}"
                raise UserError(message) from error
            self._kill()
            self._bubblewrap = False
            return self._await_ready()
        try:
            message = self._receive(_START_SECONDS)
        except (EOFError, OSError) as error:
            raise UserError(f"torch cannot be imported: {self._last_words()}") from error
        if "error" in message:
            raise UserError(f"{message['error']}; install it with `pip install torch`")
        self._ready = True

    def _receive(self, seconds: float) -> dict:
        self._control.settimeout(seconds)
        message, _ = protocol.receive(self._control)
        self._control.settimeout(None)
        return message

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read()[-2000:].decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"

    def _kill(self) -> None:
        if self._process is not None:
            self._control.close()
            # The whole group, which no program can leave: no child goes on by itself.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

"""One sandboxed process as the evaluator sees it: what it is asked, what it answers, and the clock.

The clock runs in this process, from one answer to the next without a gap: a call ends when its
maps have been copied out of the reach of the program. Both processes share one processor meanwhile
(`eplb.sandbox.pinning`), so that work which a program puts off until after its answer is on the
clock: there is no second processor for it. Subtracted is this process's own copying, in its own
processor time. A program's own copying of its maps into the shared memory counts, since it could
otherwise be avoided by writing there in the first place.

Everything that arrives here is untrusted: sizes are checked, text is bounded and made printable.
Not covered: whether maps are right (`eplb.placement`).
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import select
import socket
import tempfile
import time
from dataclasses import astuple
from typing import NamedTuple

import numpy as np

from eplb.placement import Deployment
from eplb.sandbox import failures
from eplb.sandbox.inside import protocol


class Refused(Exception):
    """The program broke a rule, failed or took too long.

    The message is the reason, in one line; ``traceback`` lists the program's own lines that led
    there, innermost last, if it raised.
    """

    def __init__(self, reason: str, traceback: list[str] | None = None) -> None:
        super().__init__(reason)
        self.traceback = traceback or []


class Answer(NamedTuple):
    """The three maps as the program gave them: int64 arrays of any shape, otherwise unchecked."""

    phy2log: np.ndarray
    log2phy: np.ndarray
    logcnt: np.ndarray


class Silence(Exception):
    """The process said nothing: it is gone, or its time is up."""

    def __init__(self, doing: str, timed_out: bool) -> None:
        super().__init__(doing)
        self.doing = doing
        self.timed_out = timed_out


class Candidate:
    """A forked process: two pipes, two shared memories and the clock.

    source: the program
    shape: [layers, experts] of a window
    deadline: on the monotonic clock, in seconds
    """

    def __init__(
        self, source: str, shape: tuple[int, ...], deployment: Deployment, deadline: float
    ) -> None:
        self._source = source
        self._shape = shape
        self._deployment = deployment
        self._deadline = deadline
        their_go, self._go = os.pipe()
        # It is empty whenever we write, unless the program has filled it.
        os.set_blocking(self._go, False)
        self._done, their_done = os.pipe()
        window, self._window = _shared_memory(4 * math.prod(shape))
        capacity = protocol.answer_capacity(*shape, deployment.num_replicas)
        answer, self._answer = _shared_memory(capacity)
        self._theirs = [their_go, their_done, window, answer]
        self._poll = select.poll()
        self._poll.register(self._done, select.POLLIN)
        self._answered = 0
        self._standing: list[np.ndarray] = []
        self._stopped: tuple[int, int] | None = None

    def __enter__(self) -> Candidate:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()
        os.close(self._go)
        os.close(self._done)
        self._window.close()

    def _release(self) -> None:
        """Close our copies of the child's ends, so that its end shows as the end of the pipes."""
        while self._theirs:
            os.close(self._theirs.pop())

    def load(self, control: socket.socket, confinement: dict) -> list[str]:
        """Have the zygote fork the process, which loads the program; name its safeguards.

        confinement: what `eplb.sandbox.inside.confine.confine` needs to know
        """
        request = {
            "source": self._source,
            "shape": list(self._shape),
            "deployment": astuple(self._deployment),
            "widest": protocol.widest(self._shape[-1], self._deployment.num_replicas),
            "confine": confinement,
        }
        protocol.send(control, request, self._theirs)
        self._release()
        self._expect(protocol.CONFINED, "before it was loaded")
        safeguards = b""
        while not safeguards.endswith(b"\n"):
            safeguards += self._read("before it was loaded")
        self._expect(protocol.LOADED, "while it was loaded")
        return json.loads(safeguards)

    def answer(self, window: np.ndarray) -> tuple[Answer, float]:
        """Hand over ``window`` [layers, experts] float32; return the maps and the seconds taken."""
        doing = f"in window {self._answered}"
        if self._poll.poll(0):
            self._expect(b"", "between two windows")
        # The clock goes on from the answer before: a timer could start work between two windows.
        start, erasing = self._stopped or (time.perf_counter_ns(), time.thread_time_ns())
        protocol.erase_maps(memoryview(self._answer), self._standing)
        erased = time.thread_time_ns()
        self._window[:] = window.tobytes()
        self._tell(protocol.GO, doing)
        self._expect(protocol.DONE, doing)
        copying = time.thread_time_ns()
        try:
            maps = protocol.read_maps(memoryview(self._answer))
        except ValueError as error:
            raise Refused(f"{error} {doing}") from error
        self._stopped = end, copied = time.perf_counter_ns(), time.thread_time_ns()
        self._answered += 1
        self._standing = maps
        ours = erased - erasing + copied - copying
        return Answer(*maps), (end - start - ours) * 1e-9

    def finish(self) -> None:
        """Let the child end."""
        self._tell(protocol.STOP, "after its last answer")

    def _tell(self, order: bytes, doing: str) -> None:
        try:
            os.write(self._go, order)
        except BrokenPipeError as error:
            raise Silence(doing, timed_out=False) from error
        except BlockingIOError as error:
            raise Refused(f"the program broke the protocol {doing}") from error

    def _expect(self, wanted: bytes, doing: str) -> None:
        got = self._read(doing)
        if got == wanted:
            return
        if got != protocol.FAILED:
            raise Refused(f"the program broke the protocol {doing}")
        sizes = (*self._shape, *astuple(self._deployment))
        what, lines = failures.describe(self._rest(doing), self._source, sizes)
        raise Refused(f"the program failed {doing}: {what}", lines)

    def _rest(self, doing: str) -> bytes:
        """What the child still writes until it closes its pipe, at most a byte over the limit."""
        text = b""
        while len(text) <= protocol.TEXT_LIMIT and (piece := self._read(doing, at_end=b"")):
            text += piece
        return text

    def _read(self, doing: str, at_end: bytes | None = None) -> bytes:
        """One byte from the child; ``at_end``, or `Silence`, where it has closed its pipe."""
        left = self._deadline - time.monotonic()
        if left <= 0 or not self._poll.poll(math.ceil(left * 1000)):
            raise Silence(doing, timed_out=True)
        byte = os.read(self._done, 1)
        if byte:
            return byte
        if at_end is None:
            raise Silence(doing, timed_out=False)
        return at_end


def _shared_memory(size: int) -> tuple[int, mmap.mmap]:
    """A descriptor to pass on and our view of the same memory, which nobody can shrink."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("eplb", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        # Shrunk by the program, it would end this process with SIGBUS; grown, it would fill memory.
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        return descriptor, mmap.mmap(descriptor, size)
    with tempfile.TemporaryFile() as file:
        os.ftruncate(file.fileno(), size)
        return os.dup(file.fileno()), mmap.mmap(file.fileno(), size)

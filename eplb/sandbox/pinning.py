"""One processor for one measurement at a time.

A program and the evaluator that times it share one processor during a run. Whatever the program
does then takes time from the evaluator's clock: nothing can be computed beside it. Evaluations
that run at the same time take turns on the processors.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_POLL_SECONDS = 0.02


@contextmanager
def one_processor() -> Iterator[int | None]:
    """Yield a processor that no other measurement uses, with this thread pinned to it.

    Waits until one is free. Yields None where processes cannot be pinned (macOS).
    """
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    allowed = os.sched_getaffinity(0)
    cpu, lock = _take(sorted(allowed, reverse=True))
    try:
        os.sched_setaffinity(0, {cpu})
        yield cpu
    finally:
        os.sched_setaffinity(0, allowed)
        os.close(lock)


def _take(processors: list[int]) -> tuple[int, int]:
    """Wait for a free processor and return it with the descriptor of its lock."""
    folder = Path(tempfile.gettempdir()) / f"eplb-processors-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    while True:
        for cpu in processors:
            lock = os.open(folder / str(cpu), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return cpu, lock
            os.close(lock)
        time.sleep(_POLL_SECONDS)

"""What a forked child gives up before it loads an untrusted program.

Covered: limits on memory, processor time, files and processes; one processor; landlock and
seccomp where the kernel has them. Each layer that took hold is named in what `confine` returns.
Not covered: what the program can learn from the processor itself, and on systems without landlock
and seccomp, reading files and opening sockets, unless bubblewrap is around the process.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress

import landlock
import seccomp


def confine(cpu: int | None, memory: int, seconds: int, readable: list[str]) -> list[str]:
    """Give up what a balancer does not need and return the names of the kernel's safeguards.

    cpu: the processor to stay on, or None
    memory: bytes that the program may take beyond what the process has now
    seconds: processor time
    readable: the paths that may still be read
    """
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    _limit(resource.RLIMIT_CPU, seconds)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)
    _limit(resource.RLIMIT_NPROC, 0)
    taken = _address_space()
    if taken is not None:
        _limit(resource.RLIMIT_AS, taken + memory)
    safeguards = []
    # A kernel may know a safeguard and still refuse it, in some containers: the evaluation then
    # reports that it is missing.
    with suppress(OSError):
        if landlock.version():
            landlock.apply(readable)
            safeguards.append("landlock")
    with suppress(OSError):
        if seccomp.available():
            seccomp.apply()
            safeguards.append("seccomp")
    return safeguards


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _address_space() -> int | None:
    """Bytes of address space in use; None where the system does not tell (macOS)."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return None

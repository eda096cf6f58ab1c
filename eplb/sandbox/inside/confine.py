"""What a forked child gives up before it loads an untrusted program.

Covered: limits on memory, processor time, files and processes; one processor; descriptors, so that
nothing is shared with other children; a read-only view of all file systems, capabilities, landlock
and seccomp where the kernel has them. Each layer that took hold is named in what `confine` returns.
Not covered: what the program can learn from the processor itself, and on systems without landlock
and seccomp, reading files and opening sockets, unless bubblewrap is around the process.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Collection
from contextlib import suppress

import landlock
import seccomp

_MOST_FILES = 64
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_NEW_MOUNTS, _NEW_USERS = 0x20000, 0x10000000
_MOUNT_SETATTR, _HERE, _RECURSIVE, _READ_ONLY, _PRIVATE = 442, -100, 0x8000, 1, 1 << 18
_CAPABILITIES_VERSION = 0x20080522


def die_with_parent(parent: int | None = None) -> None:
    """End when the parent does, and keep children from reading or writing our memory.

    parent: its process number, to end at once where it has ended before this call
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def confine(
    cpu: int | None,
    memory: int,
    seconds: int,
    readable: list[str] | None,
    kept: Collection[int],
    parent: int,
) -> list[str]:
    """Give up what a balancer does not need and return the names of the kernel's safeguards.

    cpu: the processor to stay on, or None
    memory: bytes that the program may take beyond what the process has now
    seconds: that the process may live, in processor time and on the clock
    readable: the paths that may still be read; None for all but /proc and /sys, in bubblewrap
    kept: the descriptors that stay open, beside fresh ones for input, output and errors
    parent: the process that this one ends with
    """
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    safeguards = []
    # A kernel may know a safeguard and still refuse it, in some containers: the evaluation then
    # reports that it is missing.
    with suppress(OSError, AttributeError):
        _mount_read_only()
        safeguards.append("read-only mounts")
    _close_descriptors(kept)
    _limit(resource.RLIMIT_CPU, seconds)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, _MOST_FILES)
    _limit(resource.RLIMIT_NPROC, 0)
    taken = _address_space()
    if taken is not None:
        _limit(resource.RLIMIT_AS, taken + memory)
    if readable is None:
        # Counters in /proc and /sys tell what other children did.
        readable = [f"/{name}" for name in os.listdir("/") if name not in ("proc", "sys")]
    with suppress(AttributeError):
        _drop_capabilities()
    die_with_parent(parent)
    # Where nothing ends a process with its parent, its own time does.
    signal.alarm(seconds)
    for name, take in (("landlock", lambda: landlock.apply(readable)), ("seccomp", seccomp.apply)):
        with suppress(OSError):
            take()
            safeguards.append(name)
    return safeguards


def _mount_read_only() -> None:
    """See every file system through mounts of one's own that change nothing, not even times.

    Raises `OSError` where the kernel (before 5.12) or its administrator does not let us.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_MOUNTS) != 0 and libc.unshare(_NEW_MOUNTS | _NEW_USERS) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNS)")
    attributes = struct.pack("QQQQ", _READ_ONLY, 0, _PRIVATE, 0)
    size = ctypes.c_size_t(len(attributes))
    if libc.syscall(_MOUNT_SETATTR, _HERE, b"/", _RECURSIVE, attributes, size) != 0:
        raise OSError(ctypes.get_errno(), "mount_setattr")


def _close_descriptors(kept: Collection[int]) -> None:
    """Leave no open file whose position another child could see."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    for descriptor in set(range(3, _MOST_FILES)) - set(kept):
        with suppress(OSError):
            os.close(descriptor)


def _drop_capabilities() -> None:
    """Give up every capability, for good: as root, too, no file but one's own can be changed."""
    libc = ctypes.CDLL(None, use_errno=True)
    nothing = struct.pack("6I", *(0,) * 6)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    if libc.capset(struct.pack("Ii", _CAPABILITIES_VERSION, 0), nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")


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

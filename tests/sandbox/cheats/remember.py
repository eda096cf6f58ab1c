"""Leave a mark for the next run, wherever a process can leave one that outlives it.

Each channel is a function that leaves the mark and returns whether it was there before.
"""

import contextlib
import ctypes
import fcntl
import os
import resource
import sys
import time

from honest import rebalance_experts

# The test puts files and folders here.
PLACES = []
MARK = 1_000_000_007


def new_files(place):
    path = os.path.join(place, "eplb-cheat")
    seen = os.path.exists(path)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    return seen


def attributes(place):
    seen = "user.eplb" in os.listxattr(place)
    os.setxattr(place, "user.eplb", b"the answer")
    return seen


def times(place):
    seen = int(os.stat(place).st_mtime) == MARK
    os.utime(place, (MARK, MARK))
    return seen


def modes(place):
    mode = os.stat(place).st_mode & 0o7777
    os.chmod(place, mode | 0o1000)
    return bool(mode & 0o1000) and place not in ("/tmp", "/var/tmp", "/dev/shm")


def offsets(place):
    seen = any(os.lseek(descriptor, 0, os.SEEK_CUR) == 77 for descriptor in range(2))
    for descriptor in range(2):
        os.lseek(descriptor, 77, os.SEEK_SET)
    return seen


def flags(place):
    flags = fcntl.fcntl(0, fcntl.F_GETFL)
    fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    return bool(flags & os.O_NONBLOCK)


def limits(place):
    _, most = resource.prlimit(os.getppid(), resource.RLIMIT_STACK)
    soft, _ = resource.prlimit(os.getppid(), resource.RLIMIT_STACK, (8_000_000, most))
    return soft == 8_000_000


def priorities(place):
    seen = os.getpriority(os.PRIO_PROCESS, os.getppid()) == 7
    os.setpriority(os.PRIO_PROCESS, os.getppid(), 7)
    return seen


def shared_memory(place):
    """A System V segment, which lives until it is removed."""
    libc = ctypes.CDLL(None)
    found = libc.shmget(MARK, 64, 0o600)
    if found == -1:
        libc.shmget(MARK, 64, 0o1600)
        return False
    return libc.shmctl(found, 0, None) == 0


def counters(place):
    """Processor time of the runs before, which the kernel adds up for their parent."""
    with open(f"/proc/{os.getppid()}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[13]) > 0


def clocks(place):
    """The same, by the clock of another process."""
    return time.clock_gettime(~os.getppid() << 3 | 2) > 0


def idle_times(place):
    """How often and how long the processors slept, which a run that sleeps adds to."""
    return bool(os.listdir("/sys/devices/system/cpu"))


def frames(place):
    """What the process that forked this one knows of the run before."""
    frame = sys._getframe()
    while frame.f_code.co_name != "main":
        frame = frame.f_back
    return bool({"status", "request"} & frame.f_locals.keys())


IN_PLACE = (new_files, attributes, times, modes)
ONCE = (offsets, flags, limits, priorities, shared_memory, counters, clocks, idle_times, frames)


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    found = set()
    tries = [(channel, place) for channel in IN_PLACE for place in PLACES]
    for channel, place in tries + [(channel, None) for channel in ONCE]:
        with contextlib.suppress(OSError, AttributeError):
            if channel(place):
                found.add(channel.__name__)
    if found:
        raise RuntimeError(f"stolen: {sorted(found)}")
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

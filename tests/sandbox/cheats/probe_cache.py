"""Ask which pages of a file are in memory: a mark that reading leaves, and no limit erases."""

import contextlib
import ctypes
import mmap
import os
import resource

from honest import rebalance_experts

LIBC = ctypes.CDLL(None, use_errno=True)


def resident(file):
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return LIBC.mincore(ctypes.c_void_p(address), 1, ctypes.create_string_buffer(1)) == 0


def read_if_cached(file):
    return os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) == 1


def advised(file):
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def dropped(file):
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    memory.madvise(mmap.MADV_WILLNEED)
    return True


def major_faults(file):
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt >= 0


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    found = []
    for channel in (resident, read_if_cached, advised, dropped, major_faults):
        with contextlib.suppress(OSError, AttributeError), open(os.__file__, "rb") as file:
            found += [channel.__name__] * bool(channel(file))
    if found:
        raise RuntimeError(f"stolen: {found}")
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

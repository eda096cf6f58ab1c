"""A seccomp filter: system calls that a balancer has no business making fail with EPERM.

Covered: threads and processes, programs, sockets, signals to and memory of other processes,
processor affinity and priority, namespaces, and kernel interfaces with a history of holes.
Not covered: opening files (see `landlock`), and everything on systems other than Linux on
x86-64 and arm64. The filter is the classic BPF of Linux's seccomp(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

# Numbers from Linux's asm/unistd_64.h (x86-64) and asm-generic/unistd.h (arm64); None: not there.
_CALLS = {
    "clone": (56, 220),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_setup": (206, 0),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "personality": (135, 92),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "seccomp": (317, 277),
}
# clone3 hides its flags behind a pointer; ENOSYS makes libc fall back to clone, which we refuse.
_CLONE3 = 435
# Signals to oneself stay possible: abort() is one.
_SIGNALS_TO_SELF = {"kill": (62, 129), "tgkill": (234, 131)}

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_CALLS = 0x40000000

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16

_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def available() -> bool:
    """Whether this system is one that the filter is written for."""
    return sys.platform == "linux" and platform.machine() in _AUDIT_ARCH


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _filter() -> bytes:
    machine = platform.machine()
    column = 0 if machine == "x86_64" else 1
    refuse = _instruction(_RETURN, _ERRNO | errno.EPERM)
    allow = _instruction(_RETURN, _ALLOW)
    program = [
        _instruction(_LOAD, _ARCH),
        _instruction(_JUMP_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        program += [_instruction(_JUMP_AT_LEAST, _X32_CALLS, 0, 1), _instruction(_RETURN, _KILL)]
    program += [
        _instruction(_JUMP_EQUAL, _CLONE3, 0, 1),
        _instruction(_RETURN, _ERRNO | errno.ENOSYS),
    ]
    for numbers in _CALLS.values():
        if numbers[column] is not None:
            program += [_instruction(_JUMP_EQUAL, numbers[column], 0, 1), refuse]
    for numbers in _SIGNALS_TO_SELF.values():
        program += [
            _instruction(_JUMP_EQUAL, numbers[column], 0, 4),
            _instruction(_LOAD, _FIRST_ARGUMENT),
            _instruction(_JUMP_EQUAL, os.getpid(), 1, 0),
            refuse,
            allow,
        ]
    return b"".join([*program, allow])


def apply() -> None:
    """Filter this process for good; raise `OSError` where the kernel will not."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = _filter()
    program = _Program(len(code) // 8, code)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    # SPEC_ALLOW: the default would switch on speculation barriers on some kernels and slow the
    # program's arithmetic, which is what we measure.
    call = _CALLS["seccomp"][0 if platform.machine() == "x86_64" else 1]
    if libc.syscall(call, _SECCOMP_SET_MODE_FILTER, _SPEC_ALLOW, ctypes.byref(program)) != 0:
        raise OSError(ctypes.get_errno(), "seccomp(SECCOMP_SET_MODE_FILTER)")

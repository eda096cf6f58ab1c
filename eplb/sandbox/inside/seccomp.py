"""A seccomp filter: the system calls that a balancer needs are allowed, all others fail.

Allowed: reading files, memory, time, random numbers, signals to oneself, questions about this
process. All else fails with EPERM (ENOSYS for calls so new that libc has a way around them), also
what tells whether a file's pages are in memory already. Not covered: which files may be read (see
`landlock`), and systems other than Linux on x86-64 and arm64. Written after seccomp(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

# Name and number in Linux's asm/unistd_64.h (x86-64) and asm-generic/unistd.h (arm64).
_ALLOWED = """
read 0 63, readv 19 65, pread64 17 67, write 1 64, writev 20 66, close 3 57, lseek 8 62,
dup 32 23, dup2 33 -, dup3 292 24, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72,
stat 4 -, lstat 6 -, fstat 5 80, newfstatat 262 79, statx 332 291, access 21 -, faccessat 269 48,
faccessat2 439 439, readlink 89 -, readlinkat 267 78, getdents64 217 61, getcwd 79 17,
brk 12 214, mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216, futex 202 98,
set_robust_list 273 99, rseq 334 293, membarrier 324 283, arch_prctl 158 -, sigaltstack 131 132,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, restart_syscall 219 128,
alarm 37 -, getitimer 36 102, setitimer 38 103, exit 60 93, exit_group 231 94,
getpid 39 172, getppid 110 173, gettid 186 178, getuid 102 174, geteuid 107 175, getgid 104 176,
getegid 108 177, getpgrp 111 -, uname 63 160, getrlimit 97 163, getcpu 309 168,
sched_getaffinity 204 123, sched_yield 24 124, set_tid_address 218 96, nanosleep 35 101,
clock_getres 229 114, gettimeofday 96 169, time 201 -, times 100 153, getrandom 318 278
"""
# These are allowed if 32-bit words of their arguments, less the bits outside of a mask, have one of
# some values. Words are counted from the first argument, two an argument, the low one first.
_ALL = 0xFFFFFFFF
_WRITING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
_IF = {
    "open 2 -": [(2, _WRITING, (os.O_RDONLY,))],
    "openat 257 56": [(4, _WRITING, (os.O_RDONLY,))],
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC: no locks, leases or signals.
    "fcntl 72 25": [(2, _ALL, (0, 1, 2, 3, 1030))],
    # The system's clocks and one's own: a process number in the high bits is another's.
    "clock_gettime 228 113": [(0, ~0xF & _ALL, (0,))],
    "clock_nanosleep 230 115": [(0, ~0xF & _ALL, (0,))],
    # TCGETS (isatty), FIONCLEX, FIOCLEX.
    "ioctl 16 29": [(2, _ALL, (0x5401, 0x5450, 0x5451))],
    # NORMAL, DONTNEED, FREE, HUGEPAGE, NOHUGEPAGE: nothing that moves a file's pages.
    "madvise 28 233": [(4, _ALL, (0, 4, 8, 14, 15))],
    # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA.
    "prctl 157 167": [(0, _ALL, (15, 16, 0x53564D41))],
    # One's own limits, and no new ones.
    "prlimit64 302 261": [(0, _ALL, (0,)), (4, _ALL, (0,)), (5, _ALL, (0,))],
}
_SIGNALS = ("kill 62 129", "tgkill 234 131")
_SINCE_FAMILIES_AGREE = 424

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP_CALL = {"x86_64": 317, "aarch64": 277}
_X32_CALLS = 0x40000000

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP_EQUAL, _JUMP_AT_LEAST = 0x15, 0x35
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16

_SECCOMP_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _number(call: str, machine: str) -> int | None:
    _, *numbers = call.split()
    number = numbers[list(_AUDIT_ARCH).index(machine)]
    return None if number == "-" else int(number)


def _filter(machine: str, pid: int) -> bytes:
    allow = _instruction(_RETURN, _ALLOW)
    refuse = _instruction(_RETURN, _ERRNO | errno.EPERM)
    program = [
        _instruction(_LOAD, _ARCH),
        _instruction(_JUMP_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
        _instruction(_JUMP_AT_LEAST, _X32_CALLS, 0, 1),
        _instruction(_RETURN, _KILL),
    ]
    for call in _ALLOWED.replace("\n", " ").split(","):
        if (number := _number(call, machine)) is not None:
            program += [_instruction(_JUMP_EQUAL, number, 0, 1), allow]
    for call, conditions in (_IF | dict.fromkeys(_SIGNALS, [(0, _ALL, (pid,))])).items():
        if (number := _number(call, machine)) is not None:
            checks = b"".join(_check(*condition) for condition in conditions) + allow
            program += [_instruction(_JUMP_EQUAL, number, 0, len(checks) // 8), checks]
    # Such as clone3, whose flags lie behind a pointer: libc then tries clone, which is refused.
    newer = _instruction(_RETURN, _ERRNO | errno.ENOSYS)
    program += [_instruction(_JUMP_AT_LEAST, _SINCE_FAMILIES_AGREE, 0, 1), newer]
    return b"".join([*program, refuse])


def _check(word: int, mask: int, values: tuple[int, ...]) -> bytes:
    """Go on if the argument's word has one of the values, else refuse."""
    code = [_instruction(_LOAD, _FIRST_ARGUMENT + 4 * word), _instruction(_AND, mask)]
    for left, value in zip(range(len(values), 0, -1), values, strict=True):
        code.append(_instruction(_JUMP_EQUAL, value, left, 0))
    return b"".join([*code, _instruction(_RETURN, _ERRNO | errno.EPERM)])


def apply() -> None:
    """Filter this process, with no_new_privs set, for good; raise `OSError` on failure."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _AUDIT_ARCH:
        raise OSError(errno.ENOSYS, "seccomp")
    libc = ctypes.CDLL(None, use_errno=True)
    code = _filter(machine, os.getpid())
    program = _Program(len(code) // 8, code)
    # SPEC_ALLOW: the default would switch on speculation barriers on some kernels and slow the
    # program's arithmetic, which is what we measure.
    filtered = libc.syscall(
        _SECCOMP_CALL[machine], _SECCOMP_SET_MODE_FILTER, _SPEC_ALLOW, ctypes.byref(program)
    )
    if filtered != 0:
        raise OSError(ctypes.get_errno(), "seccomp(SECCOMP_SET_MODE_FILTER)")

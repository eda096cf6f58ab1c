"""Landlock: from here on this process reads a list of paths and writes nothing.

Covered: opening, listing, creating, changing and removing files; connecting and binding TCP
(kernel 6.7); signals and abstract sockets to processes outside (6.12); tracing processes outside
(always). Not covered: files that are open already, metadata (stat), and everything on systems
other than Linux 5.13 or later. Written after Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1

_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
# File rights known to each version of the interface: a kernel refuses bits that it does not know.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_FILE_RIGHTS_SINCE_5 = (1 << 16) - 1
_TCP_RIGHTS, _SCOPES = 0b11, 0b11


def apply(readable: list[str]) -> None:
    """Restrict this process, with no_new_privs set, for good; raise `OSError` on failure."""
    libc = ctypes.CDLL(None, use_errno=True)
    linux = sys.platform == "linux"
    abi = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG) if linux else 0
    if abi < 1:
        raise OSError(errno.ENOSYS, "landlock_create_ruleset")
    rights = _FILE_RIGHTS.get(abi, _FILE_RIGHTS_SINCE_5)
    attributes = struct.pack("Q", rights)
    if abi >= 4:
        attributes += struct.pack("Q", _TCP_RIGHTS)
    if abi >= 6:
        attributes += struct.pack("Q", _SCOPES)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    try:
        for path in readable:
            _allow(libc, ruleset, path)
        if libc.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
            raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        rights = _EXECUTE | _READ_FILE
        if os.path.isdir(path):
            rights |= _READ_DIR
        # The structure is packed: eight bytes of rights, four of descriptor, no padding.
        rule = struct.pack("=Qi", rights, handle)
        if libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0) != 0:
            raise OSError(ctypes.get_errno(), "landlock_add_rule", path)
    finally:
        os.close(handle)

"""What a child gives up, and what a balancer may still do.

Run with `python -m pytest tests/sandbox/test_confine.py`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from eplb.placement import Deployment
from eplb.sandbox import isolation
from eplb.sandbox.runner import Sandbox
from tests.sandbox.programs import HONEST

LOADS = np.random.default_rng(3).integers(0, 1000, (2, 2, 12))
DEPLOYMENT = Deployment(num_replicas=16, num_groups=4, num_nodes=2, num_gpus=8)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the safeguards are Linux's")


@pytest.fixture(scope="module", params=["bubblewrap", "plain"])
def sandbox(request):
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "plain":
            patch.setattr(isolation.shutil, "which", lambda _: None)
        with Sandbox(timeout=60) as sandbox:
            yield sandbox


def seccomp():
    spec = importlib.util.spec_from_file_location("seccomp", isolation.ZYGOTE / "seccomp.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")],
)
def test_the_numbers_of_system_calls_are_the_kernels(machine, header):
    path = Path("/usr/include") / header
    if not path.is_file():
        pytest.skip(f"{path} is not installed (apt-get install linux-libc-dev)")
    names = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text())
    kernels = {re.sub("^fstatat", "newfstatat", name): int(number) for name, number in names}
    filters = seccomp()
    calls = [*filters._ALLOWED.replace("\n", " ").split(","), *filters._IF, *filters._SIGNALS]
    for call in calls:
        assert filters._number(call, machine) == kernels.get(call.split()[0])
    assert filters._SECCOMP_CALL[machine] == kernels["seccomp"]


def run(machine_code: bytes, machine: str, number: int, *arguments: int) -> int:
    """Interpret the filter, as the kernel would, on one call."""
    filters = seccomp()
    words = {0: number, 4: filters._AUDIT_ARCH[machine]}
    for index, argument in enumerate(arguments):
        words[16 + 8 * index] = argument & 0xFFFFFFFF
        words[20 + 8 * index] = argument >> 32
    code = np.frombuffer(machine_code, "<u2,u1,u1,<u4")
    position, value = 0, 0
    while True:
        operation, if_true, if_false, operand = map(int, code[position])
        position += 1
        if operation == filters._LOAD:
            value = words.get(operand, 0)
        elif operation == filters._AND:
            value &= operand
        elif operation == filters._RETURN:
            return operand
        else:
            equal = value == operand if operation == filters._JUMP_EQUAL else value >= operand
            position += if_true if equal else if_false


@pytest.mark.parametrize(("machine", "column"), [("x86_64", 1), ("aarch64", 2)])
def test_the_filter_decides_by_call_and_argument(machine, column):
    filters = seccomp()
    code = filters._filter(machine, pid=77)
    refused, missing = filters._ERRNO | 1, filters._ERRNO | 38
    numbers = {call.split()[0]: filters._number(call, machine) for call in filters._IF}
    at_home, above = -100 & 0xFFFFFFFF, 1 << 32
    verdicts = [
        ((numbers["openat"], at_home, 0, os.O_RDONLY | os.O_CLOEXEC), filters._ALLOW),
        ((numbers["openat"], at_home, 0, os.O_WRONLY), refused),
        ((numbers["openat"], at_home, 0, os.O_RDONLY | os.O_TRUNC), refused),
        ((numbers["openat"], at_home, 0, os.O_RDWR | os.O_CREAT), refused),
        ((numbers["prlimit64"], 0, 3, 0, 12345), filters._ALLOW),
        ((numbers["prlimit64"], 0, 3, 12345, 0), refused),
        ((numbers["prlimit64"], 0, 3, above, 0), refused),
        ((numbers["prlimit64"], 77, 3, 0, 0), refused),
        ((numbers["madvise"], 0, 1, 4), filters._ALLOW),
        ((numbers["madvise"], 0, 1, 21), refused),
        ((numbers["fcntl"], 0, 6), refused),
        (((62, 129)[column - 1], 77, 9), filters._ALLOW),
        (((62, 129)[column - 1], 76, 9), refused),
        ((435,), missing),
        ((437,), missing),
        (((41, 198)[column - 1],), refused),
    ]
    for call, verdict in verdicts:
        assert run(code, machine, *call) == verdict, call


def test_reading_leaves_no_trace_on_the_files_read(sandbox, tmp_path):
    """The time of the last access would tell the next run what this one has read."""
    library = Path(os.__file__).with_name("this.py")
    old = time.time() - 1e6
    try:
        os.utime(library, (old, library.stat().st_mtime))
    except PermissionError:
        pytest.skip(f"{library} is not this user's, who cannot make it look unread")
    program = tmp_path / "program.py"
    program.write_text(f"{HONEST}\nassert open({str(library)!r}, 'rb').read()\n")
    sandbox.run(program, LOADS, DEPLOYMENT)
    assert library.stat().st_atime == pytest.approx(old)
    assert "read-only mounts" in sandbox.isolation


def test_a_balancer_may_use_torch_numpy_and_the_standard_library(sandbox):
    """One call of everything that a balancer might want: a filter too strict fails here."""
    program = Path(__file__).with_name("wide_balancer.py")
    assert len(sandbox.run(program, LOADS, DEPLOYMENT).answers) == len(LOADS)

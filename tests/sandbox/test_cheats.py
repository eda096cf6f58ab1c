"""Every known way to cheat must gain nothing: it is refused, or scored like the honest program.

The cheats are complete programs in cheats/, all built on cheats/honest.py; one that finds
 something to steal says so by raising "stolen". They run under every isolation that this
machine offers. Run with `python -m pytest tests/sandbox/test_cheats.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from eplb.placement import Deployment, InvalidPlacement, validate
from eplb.sandbox import isolation
from eplb.sandbox.runner import Refused, Sandbox

CHEATS = Path(__file__).parent / "cheats"
LAYERS, EXPERTS, WINDOWS = 2, 12, 3
DEPLOYMENT = Deployment(num_replicas=16, num_groups=4, num_nodes=2, num_gpus=8)
LOADS = np.random.default_rng(7).integers(1, 1000, (WINDOWS, LAYERS, EXPERTS))
TIMEOUT = 10.0

# What becomes of each cheat. None: it gains nothing and is scored like the honest program.
OUTCOMES = {
    "honest": None,
    "honest_history": None,
    "frames": None,
    "read_files": None,
    "read_environment": None,
    "socket_out": None,
    "write_memory": None,
    "cache_across_repeats": None,
    "kill_parent": None,
    "leave_processor": None,
    "patch_time": None,
    "change_input": None,
    "noise": None,
    "forge_stages": None,
    "patch_torch": "float64",
    "patch_protocol": "makes no sense|broke the protocol",
    "report_ahead": "makes no sense|broke the protocol",
    "forge_header": "makes no sense|larger than its memory",
    "lazy_tensor": "Lazy",
    "thread": "can't start new thread",
    "child_process": "PermissionError|BlockingIOError",
    "run_program": "PermissionError|BlockingIOError",
    "overclaim_replicas": "claims 200 replicas",
    "drop_expert": "no slot for expert 0",
    "repeat_slot": "expert 0 lists slots",
    "negative_slot": "expert 0 lists slots",
    "negative_expert": "holds expert -1",
    "disagreeing_maps": "lists slots",
    "float_maps": "float64",
    "oversize_map": "larger than any valid map",
    "no_layers": "shape",
    "exit_hard": "exit status 0",
    "exit_soft": "SystemExit",
    "forge_results": "exit status 0",
    "endless_loop": "took longer than",
    "sleep": "took longer than",
    "endless_import": "took longer than",
    "memory_bomb": "MemoryError|not enough memory|allocate memory",
    "fork_bomb": "PermissionError|BlockingIOError",
    "long_error": "RuntimeError",
}
SLOW = {"endless_loop", "sleep", "endless_import"}


def test_every_cheat_has_an_outcome():
    assert {path.stem for path in CHEATS.glob("*.py")} == OUTCOMES.keys()


@pytest.fixture(scope="module", params=["bubblewrap", "plain"])
def sandbox(request, tmp_path_factory):
    """A sandbox of each kind; the plain one is what a machine without bubblewrap gets."""
    results = tmp_path_factory.mktemp("results")
    (results / "metrics.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "EPLB_TEST_SECRET")
        if request.param == "plain":
            patch.setattr(isolation.shutil, "which", lambda _: None)
        elif shutil.which("bwrap") is None:
            pytest.skip("bubblewrap is not installed (apt-get install bubblewrap)")
        with Sandbox(timeout=TIMEOUT, hidden=(results,)) as sandbox:
            sandbox.results = results
            yield sandbox


@contextlib.contextmanager
def process_with_a_key():
    """Another process whose environment holds a key, as the evolution that calls us does."""
    environment = os.environ | {"OPENAI_API_KEY": "EPLB_TEST_SECRET"}
    process = subprocess.Popen(["sleep", "600"], env=environment)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def filled_in(name: str, folder: Path, results: Path, port: int) -> Path:
    """The cheat with its targets: the paths of everything worth opening, and an open port."""
    root = Path(__file__).parents[2]
    targets = [root / "initial.py", root / "eplb" / "runner.py", results / "metrics.json"]
    source = (CHEATS / f"{name}.py").read_text()
    source = source.replace("TARGETS = []", f"TARGETS = {[str(path) for path in targets]}")
    source = source.replace("PORT = 0", f"PORT = {port}")
    source = source.replace('RESULTS = ""', f'RESULTS = "{results}"')
    program = folder / f"{name}.py"
    program.write_text(source)
    return program


def answers(sandbox: Sandbox, program: Path) -> list[np.ndarray]:
    """The program's placements, checked as the evaluation checks them."""
    run = sandbox.run(program, LOADS, DEPLOYMENT)
    shape = {"num_layers": LAYERS, "num_experts": EXPERTS, "deployment": DEPLOYMENT}
    return [validate(a.phy2log, a.log2phy, a.logcnt, **shape).phy2log for a in run.answers]


@pytest.mark.parametrize("name", OUTCOMES)
def test_cheat_gains_nothing(name, sandbox, tmp_path):
    reason = OUTCOMES[name]
    sandbox.timeout = 1.0 if name in SLOW else TIMEOUT
    with socket.create_server(("127.0.0.1", 0)) as listener, process_with_a_key():
        program = filled_in(name, tmp_path, sandbox.results, listener.getsockname()[1])
        if reason is None:
            honest = answers(sandbox, CHEATS / "honest.py")
            for _ in range(2):
                np.testing.assert_array_equal(answers(sandbox, program), honest)
        else:
            with pytest.raises((Refused, InvalidPlacement), match=reason) as refusal:
                answers(sandbox, program)
            assert "stolen" not in str(refusal.value)
            assert str(refusal.value).isprintable()
    assert (sandbox.results / "metrics.json").read_text() == "{}"


def test_isolation_is_reported(sandbox):
    answers(sandbox, CHEATS / "honest.py")
    named = sandbox.isolation.split(", ")
    assert ("bubblewrap" in named) == (isolation.shutil.which("bwrap") is not None)
    if sys.platform == "linux":
        assert "seccomp" in named


@pytest.mark.parametrize("name", ["read_files", "read_environment", "socket_out"])
def test_theft_works_without_a_sandbox(name, tmp_path):
    """The cheats above are real: run by hand, they find what the sandbox hides."""
    results = tmp_path / "results"
    results.mkdir()
    (results / "metrics.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as listener, process_with_a_key():
        program = filled_in(name, tmp_path, results, listener.getsockname()[1])
        call = (
            f"import runpy, torch; program = runpy.run_path({str(program)!r});"
            "program['run_eplb'](torch.ones(2, 12), 16, 4, 2, 8)"
        )
        by_hand = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True)
    assert "RuntimeError: stolen" in by_hand.stderr


def test_work_put_off_until_after_the_answer_is_on_the_clock(sandbox, tmp_path):
    """A program that answers first and computes later pays in the next window."""
    program = tmp_path / "later.py"
    source = (CHEATS / "honest.py").read_text()
    program.write_text(
        source.replace("import torch", "import time\n\nimport torch", 1)
        + "\n\nclass Later:\n    def __del__(self):\n"
        "        end = time.perf_counter() + 0.2\n        while time.perf_counter() < end:\n"
        "            pass\n\n\nhonest = run_eplb\n\n\ndef run_eplb(*arguments):\n"
        "    maps = honest(*arguments)\n    maps[0].later = Later()\n    return maps\n"
    )
    seconds = sandbox.run(program, LOADS, DEPLOYMENT).seconds
    assert (seconds[1:] >= 0.19).all()


def test_nothing_survives_the_sandbox(tmp_path):
    """No process is left behind, not even by a program that never ends."""
    before = zygotes()
    with Sandbox(timeout=0.5) as sandbox:
        assert zygotes() > before
        with pytest.raises(Refused, match="took longer"):
            sandbox.run(CHEATS / "endless_loop.py", LOADS, DEPLOYMENT)
    deadline = time.monotonic() + 5
    while zygotes() != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert zygotes() == before


def zygotes() -> set[str]:
    """The process numbers of all zygotes that descend from this process."""
    parents = {str(os.getpid())}
    found = set()
    table = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    for line in table.splitlines()[1:]:
        pid, ppid, arguments = line.split(maxsplit=2)
        if ppid in parents:
            parents.add(pid)
            if str(isolation.ZYGOTE) in arguments:
                found.add(pid)
    return found

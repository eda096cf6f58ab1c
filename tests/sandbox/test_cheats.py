"""Every known way to cheat must gain nothing: it is refused, or scored like the honest program.

A cheat in cheats/ is what it adds to cheats/honest.py, which stands for its line `from honest
import ...`; one that finds something to steal raises "stolen". They run under every isolation
that this machine offers. Run with `python -m pytest tests/sandbox/test_cheats.py`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eplb.placement import Deployment, InvalidPlacement, validate
from eplb.sandbox import isolation
from eplb.sandbox.runner import Refused, Sandbox
from tests.sandbox.programs import CHEATS, HONEST

IMPORT = "from honest import rebalance_experts\n"
LAYERS, EXPERTS, WINDOWS = 2, 12, 3
DEPLOYMENT = Deployment(num_replicas=16, num_groups=4, num_nodes=2, num_gpus=8)
LOADS = np.random.default_rng(7).integers(1, 1000, (WINDOWS, LAYERS, EXPERTS))
TIMEOUT = 10.0
SHARED_PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/", "/dev/null", os.__file__)

# What becomes of each cheat. None: it gains nothing and is scored like the honest program.
OUTCOMES = {
    "honest": None,
    "honest_history": None,
    "frames": None,
    "read_files": None,
    "read_environment": None,
    "socket_out": None,
    "write_memory": None,
    "remember": None,
    "probe_cache": None,
    "fill_go": None,
    "allocate_stderr": None,
    "kill_parent": None,
    "leave_processor": None,
    "patch_time": None,
    "change_input": None,
    "noise": None,
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
    "restore_header": "no slot for expert 1",
    "forge_report": "an exception of its own",
    "deep_report": "failed without a word",
    "outlive": "took longer than",
    "stop": "took longer than",
    "no_layers": "shape",
    "unnamed_signal": "ended by signal 40",
    "endless_map": "larger than its memory",
    "go_back": "broke the protocol",
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
SLOW = {"endless_loop", "sleep", "endless_import", "outlive", "stop"}


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


def composed(name: str) -> str:
    """The honest program with what the cheat adds."""
    cheat = (CHEATS / f"{name}.py").read_text()
    return HONEST if name == "honest" else HONEST + cheat.replace(IMPORT, "")


def filled_in(name: str, folder: Path, results: Path, port: int, places: tuple = ()) -> Path:
    """The cheat with its targets: the paths of everything worth opening, and an open port."""
    root = Path(__file__).parents[2]
    targets = [root / "initial.py", root / "eplb" / "common.py", results / "metrics.json"]
    places = [results, results / "metrics.json", *places]
    source = composed(name)
    source = source.replace("TARGETS = []", f"TARGETS = {[str(path) for path in targets]}")
    source = source.replace("PLACES = []", f"PLACES = {[str(path) for path in places]}")
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
    sandbox.timeout = 0.5 if name in SLOW else TIMEOUT
    with socket.create_server(("127.0.0.1", 0)) as listener, process_with_a_key():
        port = listener.getsockname()[1]
        program = filled_in(name, tmp_path, sandbox.results, port, SHARED_PLACES)
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


def by_hand(programs: list[Path], runs: int = 1) -> str:
    """What programs say that run as this user's own, each time with the same standard input."""
    call = (
        "import runpy, sys, torch\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        runpy.run_path(path)['run_eplb'](torch.ones(2, 12), 16, 4, 2, 8)\n"
        "    except RuntimeError as error:\n"
        "        print(path, error, file=sys.stderr)\n"
    )
    again = f'for run in $(seq {runs}); do "{sys.executable}" -c "$0" "$@"; done'
    with tempfile.TemporaryFile() as everything:
        command = ["sh", "-c", again, call, *map(str, programs)]
        outputs = {"stdin": everything, "stdout": everything, "stderr": subprocess.PIPE}
        return subprocess.run(command, **outputs, text=True, check=False).stderr


def test_theft_works_without_a_sandbox(tmp_path):
    """The cheats above are real: run by hand, they find what the sandbox hides."""
    results = tmp_path / "results"
    results.mkdir()
    (results / "metrics.json").write_text("{}")
    thieves = ["read_files", "read_environment", "socket_out", "probe_cache"]
    with socket.create_server(("127.0.0.1", 0)) as listener, process_with_a_key():
        port = listener.getsockname()[1]
        programs = [filled_in(name, tmp_path, results, port) for name in thieves]
        said = by_hand(programs).splitlines()
    stolen = [line.partition(" stolen")[0] for line in said if " stolen" in line]
    assert stolen == [str(path) for path in programs]


@pytest.mark.skipif(sys.platform != "linux", reason="the channels are Linux's")
def test_every_channel_remembers_without_a_sandbox(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    (results / "metrics.json").write_text("{}")
    said = by_hand([filled_in("remember", tmp_path, results, 0)], runs=2)
    channels = "attributes clocks counters flags idle_times limits modes new_files offsets"
    for channel in [*channels.split(), "priorities", "shared_memory", "times"]:
        assert f"{channel!r}" in said


def test_work_put_off_until_after_the_answer_is_on_the_clock(sandbox, tmp_path):
    """A program that answers first and computes later pays in the next window."""
    program = tmp_path / "later.py"
    program.write_text(
        "import time\n" + HONEST + "\n\nclass Later:\n    def __del__(self):\n"
        "        end = time.perf_counter() + 0.2\n        while time.perf_counter() < end:\n"
        "            pass\n\n\nhonest = run_eplb\n\n\ndef run_eplb(*arguments):\n"
        "    maps = honest(*arguments)\n    maps[0].later = Later()\n    return maps\n"
    )
    seconds = sandbox.run(program, LOADS, DEPLOYMENT).seconds
    assert (seconds[1:] >= 0.19).all()


def test_nothing_survives_the_sandbox(tmp_path):
    """No process is left behind, not even by a program that never ends."""
    helpers = descendants(os.getpid())
    with Sandbox(timeout=0.5) as sandbox:
        started = descendants(os.getpid())
        assert str(sandbox._process.pid) in started
        with pytest.raises(Refused, match="took longer"):
            sandbox.run(filled_in("endless_loop", tmp_path, tmp_path, 0), LOADS, DEPLOYMENT)
        started |= descendants(os.getpid())
    until(lambda: not (started - helpers) & descendants(0))


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's table of processes")
@pytest.mark.parametrize("bubblewrap", [True, False])
def test_nothing_survives_an_evaluator_that_is_killed(bubblewrap, tmp_path):
    """Not even a program that has left every group that it could leave."""
    program = filled_in("outlive", tmp_path, tmp_path, 0)
    call = (
        "import sys; from pathlib import Path; from eplb.sandbox import isolation\n"
        "from tests.sandbox.test_cheats import DEPLOYMENT, LOADS, Sandbox\n"
        f"if not {bubblewrap}: isolation.shutil.which = lambda _: None\n"
        f"with Sandbox(600) as sandbox: sandbox.run(Path({str(program)!r}), LOADS, DEPLOYMENT)\n"
    )
    root = Path(__file__).parents[2]
    evaluator = subprocess.Popen([sys.executable, "-c", call], cwd=root)
    until(lambda: any(is_busy(pid) for pid in descendants(evaluator.pid)))
    started = descendants(evaluator.pid)
    evaluator.kill()
    evaluator.wait()
    until(lambda: not started & descendants(0))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_busy(pid: str) -> bool:
    """Whether the process ignores SIGTERM, as the cheat does, and no other of ours."""
    with contextlib.suppress(OSError):
        ignored = re.search(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1]
        return bool(int(ignored, 16) & 1 << (signal.SIGTERM - 1))
    return False


def descendants(ancestor: int) -> set[str]:
    """The process numbers of all that descend from a process."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout
    children = [line.split() for line in table.splitlines()]
    found, parents = set(), {str(ancestor)}
    while parents:
        parents = {pid for pid, parent in children if parent in parents}
        found |= parents
    return found

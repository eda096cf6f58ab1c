"""The runner: what programs are given, how their failures read, and what the sandbox shows.

Run with `python -m pytest tests/sandbox/test_runner.py`.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

from eplb.common import UserError
from eplb.placement import Deployment
from eplb.sandbox import isolation, pinning, runner
from eplb.sandbox.inside import protocol
from eplb.sandbox.process import Candidate
from eplb.sandbox.runner import Refused, Sandbox
from tests.sandbox.programs import HONEST

DEPLOYMENT = Deployment(num_replicas=16, num_groups=4, num_nodes=2, num_gpus=8)
LOADS = np.random.default_rng(3).integers(0, 1000, (4, 2, 12))
SIGNATURE = "(weight, num_replicas, num_groups, num_nodes, num_gpus)"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(timeout=20) as sandbox:
        yield sandbox


def run(sandbox, tmp_path, source):
    program = tmp_path / "program.py"
    program.write_text(source)
    return sandbox.run(program, LOADS, DEPLOYMENT)


def test_windows_arrive_in_order_as_float32_with_the_deployment(sandbox, tmp_path):
    """The program reports what it was given in the maps, which nobody checks here."""
    report = """
import torch

history = []

def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    assert weight.dtype == torch.float32
    history.append(weight)
    seen = torch.stack(history).sum(dim=0).long()
    return seen, torch.tensor([num_replicas, num_groups, num_nodes, num_gpus]), seen[:0]

run_eplb = rebalance_experts
"""
    result = run(sandbox, tmp_path, report)
    assert len(result.answers) == len(result.seconds) == len(LOADS)
    for window, answer in enumerate(result.answers):
        np.testing.assert_array_equal(answer.phy2log, LOADS[: window + 1].sum(axis=0))
        np.testing.assert_array_equal(answer.log2phy, [16, 4, 2, 8])
        assert answer.logcnt.shape == (0, 12)


def test_every_run_is_a_fresh_process(sandbox, tmp_path):
    count = (
        HONEST
        + "\n\nseen = []\n"
        + (
            f"def run_eplb{SIGNATURE}:\n    seen.append(1)\n"
            "    return tuple(torch.full((1, 1), len(seen)) for _ in range(3))\n"
        )
    )
    for _ in range(2):
        answers = run(sandbox, tmp_path, count).answers
        assert [int(answer.logcnt[0, 0]) for answer in answers] == [1, 2, 3, 4]


def test_time_is_the_programs_own(sandbox, tmp_path):
    slow = HONEST + (
        f"\n\nimport time\n\nhonest = run_eplb\n\ndef run_eplb{SIGNATURE}:\n    time.sleep(0.1)\n"
        "    return honest(weight, num_replicas, num_groups, num_nodes, num_gpus)\n"
    )
    assert (run(sandbox, tmp_path, slow).seconds >= 0.0999).all()
    assert (run(sandbox, tmp_path, HONEST).seconds >= 0.0).all()


def test_a_balancer_alone_is_called_itself(sandbox, tmp_path):
    """As the programs of other repositories are, and with a byte-order mark as editors write it."""
    alone = HONEST[: HONEST.index("def run_eplb")]
    answers = run(sandbox, tmp_path, "\ufeff" + alone).answers
    assert len(answers) == len(LOADS)
    np.testing.assert_array_equal(answers[0].phy2log, np.tile(np.arange(16) % 12, (2, 1)))


def test_prints_go_nowhere(sandbox, tmp_path):
    noisy = "import os, sys\nprint('x' * 100_000)\nsys.stderr.write('x' * 100_000)\n" + HONEST
    assert len(run(sandbox, tmp_path, noisy + "\nos.write(2, b'x')\n").answers) == len(LOADS)
    sandbox._stderr.seek(0)
    assert b"xxx" not in sandbox._stderr.read()


@pytest.mark.parametrize("wider", [0, 1, 5, 60])
def test_any_width_that_holds_all_slots_is_read_as_wide_as_can_be_needed(sandbox, tmp_path, wider):
    source = HONEST + (
        f"\n\nhonest = run_eplb\n\ndef run_eplb{SIGNATURE}:\n"
        "    maps = honest(weight, num_replicas, num_groups, num_nodes, num_gpus)\n"
        f"    wide = torch.nn.functional.pad(maps[1], (0, {wider}), value=-1)\n"
        "    return maps[0], wide, maps[2]\n"
    )
    log2phy = run(sandbox, tmp_path, source).answers[0].log2phy
    assert log2phy.shape[2] == min(2 + wider, 16 - 12 + 1)
    assert (log2phy[:, :, 2:] == -1).all() and (log2phy[:, :, 0] >= 0).all()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", r"no function rebalance_experts\(weight"),
        ("rebalance_experts = 1", "no function rebalance_experts"),
        ("def run_eplb(weight): pass", "no function rebalance_experts"),
        ("run_eplb = 3\n" + HONEST.replace("run_eplb", "other"), "no function run_eplb"),
        (HONEST + "\n\ndef run_eplb(weight): pass\n", "run_eplb cannot be called as run_eplb"),
        ("def broken(:\n    pass", 'SyntaxError: "invalid syntax" .line 1: def broken'),
        ("import nowhere", "while it was loaded: ModuleNotFoundError"),
        (HONEST + f"\n\ndef run_eplb{SIGNATURE}: pass\n", "returned a 'NoneType'"),
        (HONEST + f"\n\ndef run_eplb{SIGNATURE}: return weight, weight\n", "returned 2 values"),
        (
            HONEST + f"\n\ndef run_eplb{SIGNATURE}: return [weight] * 3\n",
            "'Tensor' of torch.float32",
        ),
        (
            HONEST + f"\n\ndef run_eplb{SIGNATURE}: return weight[99]\n",
            r"window 0: IndexError.*line \d",
        ),
        (
            HONEST + f"\n\ndef run_eplb{SIGNATURE}: raise Exception('a\\nb')\n",
            r"Exception .line \d",
        ),
        (
            HONEST + f"\n\ndef run_eplb{SIGNATURE}: return run_eplb(weight, 1, 1, 1, 1)\n",
            "Recursion",
        ),
    ],
)
def test_broken_programs_are_refused_in_one_line(sandbox, tmp_path, source, reason):
    with pytest.raises(Refused, match=reason) as refusal:
        run(sandbox, tmp_path, source)
    assert "\n" not in str(refusal.value)


def test_a_refusal_carries_the_programs_own_lines(sandbox, tmp_path):
    source = HONEST + f"\n\ndef run_eplb{SIGNATURE}:\n    return weight[99]\n"
    with pytest.raises(Refused) as refusal:
        run(sandbox, tmp_path, source)
    assert refusal.value.traceback[-1].endswith(": return weight[99]")


def test_programs_that_cannot_be_read(sandbox, tmp_path):
    with pytest.raises(UserError, match="cannot read the program"):
        sandbox.run(tmp_path / "missing.py", LOADS, DEPLOYMENT)
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe")
    with pytest.raises(Refused, match="not UTF-8"):
        sandbox.run(tmp_path / "binary.py", LOADS, DEPLOYMENT)


def test_a_sandbox_goes_on_after_a_timeout(tmp_path):
    with Sandbox(timeout=0.5) as sandbox:
        with pytest.raises(Refused, match="took longer than 0.5 s in window 0"):
            run(sandbox, tmp_path, HONEST + f"\n\ndef run_eplb{SIGNATURE}:\n    while True: pass\n")
        sandbox.timeout = 20
        assert len(run(sandbox, tmp_path, HONEST).answers) == len(LOADS)


def test_a_bubblewrap_that_does_not_work_is_left_out(tmp_path, monkeypatch):
    """As in a container that allows no namespaces."""
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'No permissions to create a new namespace' >&2\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(isolation.shutil, "which", lambda _: str(broken))
    with Sandbox(timeout=20) as sandbox:
        run(sandbox, tmp_path, HONEST)
        assert "bubblewrap" not in sandbox.isolation


def test_a_python_without_torch_is_said_in_one_line(tmp_path, monkeypatch):
    no_torch = tmp_path / "zygote"
    no_torch.mkdir()
    for module in isolation.ZYGOTE.glob("*.py"):
        text = module.read_text().replace("import torch\n", "import torch_that_is_not_there\n")
        (no_torch / module.name).write_text(text)
    monkeypatch.setattr(isolation, "ZYGOTE", no_torch)
    with Sandbox() as sandbox, pytest.raises(UserError, match="pip install torch"):
        run(sandbox, tmp_path, HONEST)


def test_maps_survive_shared_memory():
    memory = memoryview(bytearray(4096))
    maps = [np.arange(6).reshape(2, 3), np.full((2, 3, 4), -1), np.zeros((0, 5), np.int64)]
    protocol.write_maps(memory, maps)
    for written, read in zip(maps, protocol.read_maps(memory), strict=True):
        np.testing.assert_array_equal(written, read)
    protocol.erase_maps(memory, maps)
    assert not any(memory[protocol.HEADER.itemsize :])
    with pytest.raises(ValueError, match="makes no sense"):
        protocol.read_maps(memory)
    for header in ([2, 0, 1 << 40, 0], [3, 1 << 62, 1 << 62, 0]):
        memory[: protocol.HEADER.itemsize] = np.array(header * 3).tobytes()
        with pytest.raises(ValueError, match="^the answer is larger than its memory$"):
            protocol.read_maps(memory)
    with pytest.raises(ValueError, match="log2phy of shape"):
        protocol.write_maps(memory, [maps[0], np.zeros((1, 1, 600), np.int64), maps[2]])


def test_a_full_go_pipe_is_a_refusal_and_no_wait():
    """Where no filter keeps a program from opening the other end of its pipe."""
    with Candidate("", (2, 12), DEPLOYMENT, deadline=time.monotonic() + 60) as candidate:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(candidate._go, b"g" * 4096)
        with pytest.raises(Refused, match="broke the protocol in window 0"):
            candidate.answer(LOADS[0].astype(np.float32))


def test_what_is_hidden_is_left_out_of_what_may_be_read(tmp_path):
    for name in ("a/secret/key", "a/open", "b/trace.json", "b/code.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    hidden = [tmp_path / "a" / "secret", tmp_path / "b" / "trace.json"]
    (tmp_path / "link").symlink_to(tmp_path / "a")
    shown = {path.relative_to(tmp_path).as_posix() for path in isolation._around(tmp_path, hidden)}
    assert shown == {"a/open", "b/code.py"}
    assert isolation._around(hidden[0], hidden) == []
    assert isolation._around(tmp_path / "a" / "open", hidden) == [tmp_path / "a" / "open"]


def test_what_is_hidden_is_masked_under_every_name(tmp_path):
    (tmp_path / "lib" / "secret").mkdir(parents=True)
    (tmp_path / "lib64").symlink_to(tmp_path / "lib")
    masks = isolation._mask([tmp_path / "lib" / "secret"], [tmp_path / "lib", tmp_path / "lib64"])
    secrets = [str(tmp_path / lib / "secret") for lib in ("lib", "lib64")]
    assert masks == ["--tmpfs", secrets[0], "--tmpfs", secrets[1]]


def test_the_environment_holds_nothing_of_the_users(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert not any("KEY" in name or "TOKEN" in name for name in isolation.environment())
    assert "secret" not in isolation.environment().values()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process")
def test_a_processor_serves_one_measurement_at_a_time():
    before = os.sched_getaffinity(0)
    wait = (
        "import os, sys; from eplb.sandbox.pinning import one_processor\n"
        "os.sched_setaffinity(0, {int(sys.argv[1])})\n"
        "with one_processor() as cpu: print(cpu)"
    )
    with pinning.one_processor() as cpu:
        assert os.sched_getaffinity(0) == {cpu}
        command = [sys.executable, "-c", wait, str(cpu)]
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=2)
    assert os.sched_getaffinity(0) == before
    assert other.communicate(timeout=300)[0] == f"{cpu}\n"


def test_the_trusted_empty_program_is_measured_once_a_shape(sandbox, tmp_path, monkeypatch):
    run(sandbox, tmp_path, HONEST)
    monkeypatch.setattr(runner, "_NOTHING", "raise RuntimeError")
    run(sandbox, tmp_path, HONEST)

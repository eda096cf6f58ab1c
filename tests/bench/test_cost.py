"""The bench measures what it says: `pytest tests/bench/test_cost.py`. No test looks at a time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from eplb.bench import cost as bench
from eplb.common import UserError
from eplb.trace import read_trace


def test_memory_counts_descendants():
    hold = "import time; block = b'x' * (100 << 20); print(flush=True); time.sleep(60)"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    process = subprocess.Popen([sys.executable, "-c", nested], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        assert 100 << 20 < bench.memory_of(process.pid) < 300 << 20
    finally:
        # The grandchild first: nobody else would end it.
        child = f"/proc/{process.pid}/task/{process.pid}/children"
        subprocess.run(["kill", *open(child).read().split()], check=True)
        process.wait()
        process.stdout.close()
    assert bench.memory_of(process.pid) == 0


def test_a_command_that_fails_says_why():
    with pytest.raises(UserError, match="no idea"):
        bench.run([sys.executable, "-c", "import sys; sys.exit('no idea')"])


def test_the_large_trace_is_read_like_the_public_one(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "LARGE", (201, 2, 4))
    bench.write_large_trace(tmp_path / "trace.json")
    trace = read_trace(tmp_path / "trace.json")
    assert trace.loads.shape == (201, 2, 4)
    assert trace.windows().shape == (2, 2, 4)

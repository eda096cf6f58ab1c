"""What the recorder keeps of the windows, and that everything of the project reads it.

python -m pytest tests/engines/test_vllm_recorder.py -q
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from eplb import loadstats
from eplb.engines import vllm_recorder
from eplb.engines.vllm_recorder import Recorder, append
from eplb.placement import Deployment
from eplb.trace import read_trace
from tests.strategies import random_loads

SIZES = Deployment(12, 4, 1, 4)
pytestmark = pytest.mark.usefixtures("ranks")


def test_windows_are_kept_in_order_without_profiling_and_repeats(tmp_path):
    recorder = Recorder(tmp_path)
    windows = [random_loads(seed, 3, 8) for seed in range(3)]
    zeros, ones = np.zeros((3, 8), int), np.ones((3, 8), int)
    for load in (zeros, ones, windows[0], windows[0], windows[1], zeros, windows[2]):
        recorder.add(load, SIZES)
    recording = read_trace(tmp_path)
    assert np.array_equal(recording.loads, windows)
    assert Deployment(12, 4, 1, 4) == recording.deployment()
    # A restarted server goes on in the same file.
    Recorder(tmp_path).add(windows[0], SIZES)
    assert np.array_equal(read_trace(tmp_path).loads, [*windows, windows[0]])


@pytest.mark.parametrize("group", ["ep", "pp"])
def test_other_ranks_write_nothing(tmp_path, ranks, group):
    ranks[group].rank_in_group = 1
    Recorder(tmp_path / "folder").add(random_loads(0, 3, 8), SIZES)
    assert not (tmp_path / "folder").exists()


def test_a_draft_model_has_a_file_of_its_own_and_the_folder_stands_for_the_target(tmp_path):
    recorder = Recorder(tmp_path)
    target, draft = random_loads(0, 3, 8), random_loads(1, 1, 8)
    for _ in range(2):
        recorder.add(target, SIZES)
        recorder.add(draft, SIZES)
        target, draft = target + 1, draft + 1
    assert [file.name for file in sorted(tmp_path.iterdir())] == [
        "load_1x8.jsonl",
        "load_3x8.jsonl",
    ]
    trace = read_trace(tmp_path)
    assert np.array_equal(trace.loads, [target - 2, target - 1])
    assert trace.interval() == 1
    assert np.array_equal(read_trace(tmp_path / "load_1x8.jsonl").loads, [draft - 2, draft - 1])


def test_the_file_stays_within_its_bound_and_keeps_the_newest_lines(tmp_path):
    line = len(loadstats.line_of(random_loads(0, 2, 4), 0, SIZES).encode()) + 8
    recorder = Recorder(tmp_path, most_bytes=10 * line)
    windows = [random_loads(seed, 2, 4) for seed in range(50)]
    path = tmp_path / "load_2x4.jsonl"
    for count, load in enumerate(windows, 1):
        recorder.add(load, SIZES)
        assert path.stat().st_size <= 10 * line
        loads = read_trace(path).loads
        assert np.array_equal(loads, windows[count - len(loads) : count])
        assert len(loads) >= min(count, 5)


def test_a_line_that_a_crash_has_cut_goes_before_the_next(tmp_path):
    path = tmp_path / "load.jsonl"
    whole = [loadstats.line_of(random_loads(seed, 2, 4), seed, SIZES) for seed in range(2)]
    path.write_text(whole[0] + whole[1][:20])
    assert np.array_equal(read_trace(path).loads, [random_loads(0, 2, 4)])
    append(path, whole[1].encode(), 1 << 20)
    assert path.read_text() == "".join(whole)


def test_a_full_disk_leaves_whole_lines_and_the_server_up(tmp_path, monkeypatch, caplog):
    recorder = Recorder(tmp_path)
    recorder.add(random_loads(0, 2, 4), SIZES)
    before = (tmp_path / "load_2x4.jsonl").read_bytes()
    write = vllm_recorder.os.write
    monkeypatch.setattr(vllm_recorder.os, "write", lambda file, line: write(file, line[:30]))
    recorder.add(random_loads(1, 2, 4), SIZES)
    assert (tmp_path / "load_2x4.jsonl").read_bytes() == before
    assert f"cannot record to {tmp_path}" in caplog.text
    monkeypatch.undo()


def test_lines_are_those_of_the_proposal(tmp_path):
    Recorder(tmp_path).add(np.array([[3, 0, 5], [1, 1, 2]]), SIZES)
    assert json.loads((tmp_path / "load_2x3.jsonl").read_text()) == {
        "record_type": "eplb_load_stats",
        "version": 1,
        "step": 0,
        "num_ranks": 4,
        "num_slots": 12,
        "num_groups": 4,
        "num_nodes": 1,
        "num_layers": 2,
        "expert_load": [[3, 0, 5], [1, 1, 2]],
        "p2l_map": [[0, 1, 2], [0, 1, 2]],
    }

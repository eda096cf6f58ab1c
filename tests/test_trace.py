"""Reading, writing and cutting traces. Run: python -m pytest tests/test_trace.py"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from eplb import common, jsonstream
from eplb.common import UserError
from eplb.jsonstream import MOST_TOKENS
from eplb.placement import Deployment
from eplb.trace import Trace, TraceHeader, read_trace, write_trace

ROOT = Path(__file__).parent.parent

any_loads = arrays(
    np.int64, array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, MOST_TOKENS)
)
any_header = st.builds(
    TraceHeader,
    model=st.none() | st.text(),
    source=st.none() | st.text(),
    seed=st.none() | st.integers(0, 2**64),
    top_k=st.none() | st.integers(1, 8),
    num_groups=st.none() | st.integers(1, 8),
    num_replicas=st.none() | st.integers(1, 512),
    num_nodes=st.none() | st.integers(1, 8),
    num_gpus=st.none() | st.integers(1, 64),
    steps_per_record=st.none() | st.integers(1, 100),
    rebalance_interval=st.none() | st.integers(1, 100),
)


@pytest.fixture
def small_chunks(monkeypatch):
    """Cut the text at every possible place."""
    monkeypatch.setattr(jsonstream, "CHUNK_BYTES", 1)


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "trace.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def history(*records, **header) -> str:
    """The text of a trace file with the given ``logical_expert_load`` of each record."""
    return json.dumps(
        header | {"load_history": [{"logical_expert_load": record} for record in records]}
    )


def error_of(tmp_path: Path, text: str | bytes) -> str:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_trace(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@settings(deadline=None, max_examples=60)
@given(loads=any_loads, header=any_header, chunk=st.integers(1, 60))
def test_what_is_written_is_read(tmp_path_factory, loads, header, chunk):
    path = tmp_path_factory.mktemp("trace") / "trace.json"
    write_trace(path, Trace(loads, header))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonstream, "CHUNK_BYTES", chunk)
        trace = read_trace(path)
    assert trace.loads.dtype == np.int64
    assert np.array_equal(trace.loads, loads)
    assert trace.header == header
    # The file is the public format, for any other JSON reader too.
    records = json.loads(path.read_text())["load_history"]
    assert [record["logical_expert_load"] for record in records] == loads.tolist()


def test_other_layouts_of_the_public_file(tmp_path, small_chunks):
    """Indentation, other keys of any type anywhere, escapes, a byte-order mark."""
    loads = [[[1, 2, 3], [4, 5, 2**33]], [[0, 0, 0], [7, 8, 9]]]
    data = {
        "note": 'a "quoted" [ { \\ é 😀',
        "load_history": [
            {"step": 1.5, "logical_expert_load": record, "physical": [[0.5, None, True]]}
            for record in loads
        ],
        "rest": {"load_history": [1]},
        "top_k": 2,
    }
    for options in ({}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}):
        for encoding in ("utf-8", "utf-8-sig"):
            text = json.dumps(data, **options).encode(encoding)
            trace = read_trace(written(tmp_path, text))
            assert trace.loads.tolist() == loads
            assert trace.header == TraceHeader(top_k=2)


def test_a_word_of_load_statistics_makes_no_trace_theirs(tmp_path):
    trace = read_trace(written(tmp_path, history([[1, 2]], source="record_type")))
    assert trace.header.source == "record_type"


def test_gzipped_traces_are_read_and_damage_is_told(tmp_path):
    packed = gzip.compress(history([[1, 2], [3, 4]], num_gpus=2).encode())
    trace = read_trace(written(tmp_path, packed))
    assert trace.loads.tolist() == [[[1, 2], [3, 4]]] and trace.header.num_gpus == 2
    assert "is cut off" in error_of(tmp_path, packed[:-10])
    flipped = packed[:20] + bytes(255 - byte for byte in packed[20:40]) + packed[40:]
    assert "cut off or damaged" in error_of(tmp_path, flipped)
    assert "cut off or damaged" in error_of(tmp_path, packed[:-8] + 8 * b"\0")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_terminal_shows_how_much_is_read(tmp_path, small_chunks, monkeypatch, pack):
    shares = []
    monkeypatch.setattr(common, "progress_bar", lambda doing: nullcontext(shares.append))
    read_trace(written(tmp_path, pack(history([[1]], [[2]], model="m").encode())))
    assert len(shares) == 3 and shares == sorted(shares)
    assert 0 < shares[0] and shares[-1] <= 1.0


def test_a_pipe_is_read_too():
    """`evaluate.py --trace <(zcat …)`"""
    reading, writing = os.pipe()
    os.write(writing, history([[1, 2]], [[3, 4]]).encode())
    os.close(writing)
    try:
        assert read_trace(f"/dev/fd/{reading}").loads.tolist() == [[[1, 2]], [[3, 4]]]
    finally:
        os.close(reading)


def test_no_load_is_not_an_error(tmp_path):
    assert read_trace(written(tmp_path, history([[0, 0]], [[0, 3]]))).loads.sum() == 3
    assert read_trace(written(tmp_path, history([[0]]))).loads.shape == (1, 1, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        (b"\x1f\x8b\x08\x00", "cut off or damaged"),
        ("{}", 'no "load_history"'),
        ('{"load_history": []}', "no records"),
        ('{"load_history": [[[1]]]}', "record 0"),
        ('{"load_history": [{"physical_expert_load": [[3]]}]}', "record 0"),
        (history([[1, 2]], [[1, 2, 3]]), "record 1 has 1 layers x 3 experts"),
        (history([[1, 2]], [[1, 2], [3, 4]]), "record 1 has 2 layers x 2 experts"),
        (history([[1, 2]], [[1, float("nan")]]), "record 1, layer 0, expert 1 is NaN"),
        (history([[1, 2]], rebalance_interval=0), "rebalance_interval is 0"),
        (history([[1, 2]], rebalance_interval="10"), 'rebalance_interval is "10"'),
        (history([[1, 2]], top_k=True), "top_k is true"),
        (history([[1, 2]], model=7), "model is 7"),
    ],
)
def test_bad_files_name_the_place(tmp_path, text, says):
    assert says in error_of(tmp_path, text)


def test_missing_directory_unreadable(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_trace(tmp_path / "none.json")
    with pytest.raises(UserError, match="is a directory"):
        read_trace(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot read"):
        read_trace(tmp_path / "file" / "trace.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_no_permission(tmp_path):
    path = written(tmp_path, history([[1]]))
    path.chmod(0)
    with pytest.raises(UserError, match="cannot read"):
        read_trace(path)


def test_failed_write_keeps_the_old_file(tmp_path):
    path = written(tmp_path, "old")
    with pytest.raises(AttributeError):
        write_trace(path, Trace([object()]))  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@settings(deadline=None, max_examples=60)
@given(loads=any_loads, interval=st.integers(1, 7))
def test_windows_are_sums_and_the_rest_is_dropped(loads, interval):
    trace = Trace(loads).stating(rebalance_interval=interval)
    records, layers, experts = loads.shape
    if records < 2 * interval:
        with pytest.raises(UserError, match="record"):
            trace.windows()
        return
    windows = trace.windows()
    assert windows.dtype == np.int64
    assert windows.shape == (records // interval, layers, experts)
    for window in range(len(windows)):
        for layer in range(layers):
            for expert in range(experts):
                cells = [loads[window * interval + i, layer, expert] for i in range(interval)]
                assert windows[window, layer, expert] == sum(map(int, cells))


def test_deployment_comes_from_the_argument_the_header_or_the_default():
    loads = np.ones((2, 1, 256), dtype=np.int64)
    assert Trace(loads).deployment() == Deployment(288, 8, 4, 32)
    header = TraceHeader(num_replicas=320, num_groups=4, num_nodes=1, num_gpus=8)
    assert Trace(loads, header).deployment() == Deployment(320, 4, 1, 8)
    assert Trace(loads, header).stating(num_gpus=16, num_nodes=None).deployment() == Deployment(
        320, 4, 1, 16
    )
    with pytest.raises(UserError, match="num_replicas 320 is not a multiple of num_gpus 7"):
        Trace(loads, header).stating(num_gpus=7).deployment()


def test_the_default_deployment_is_for_models_of_its_size_only():
    trace = Trace(np.ones((2, 1, 16), dtype=np.int64))
    with pytest.raises(UserError, match="it has 16 experts.*--num_replicas and --num_gpus"):
        trace.deployment()
    assert trace.stating(num_replicas=20, num_gpus=4).deployment() == Deployment(20, 8, 4, 4)


def test_interval_comes_from_the_argument_the_header_or_the_public_file():
    loads = np.ones((250, 1, 2), dtype=np.int64)
    assert Trace(loads).interval() == 100
    assert Trace(loads, TraceHeader(rebalance_interval=10)).interval() == 10
    assert (
        Trace(loads, TraceHeader(rebalance_interval=10)).stating(rebalance_interval=25).interval()
        == 25
    )
    assert Trace(loads).windows().shape == (2, 1, 2)
    assert Trace(loads).windows().sum() == 400


def ones(records: int) -> Trace:
    return Trace(np.ones((records, 1, 1), dtype=np.int64))


@pytest.mark.parametrize("interval", [0, -1])
def test_interval_must_be_positive(interval):
    with pytest.raises(UserError, match=f"rebalance_interval is {interval}"):
        ones(4).stating(rebalance_interval=interval).windows()


def test_too_few_windows_names_the_interval_that_works():
    with pytest.raises(UserError, match="largest value that works is 9"):
        ones(19).stating(rebalance_interval=10).windows()
    assert len(ones(19).stating(rebalance_interval=9).windows()) == 2
    with pytest.raises(UserError, match="no two windows"):
        ones(1).stating(rebalance_interval=1).windows()


# Not getrusage: its maximum starts at the memory of the process that started this one.
MEASURE = """
import re, sys
from eplb.trace import read_trace
def most():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
idle = most()
trace = read_trace(sys.argv[1])
peak = most()
assert trace.loads.shape == (320, 58, 256)
heavy = {"torch", "shinka", "matplotlib"} & set(sys.modules)
print((peak - idle) * 1024, *heavy)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_large_file_costs_little_more_than_its_numbers(tmp_path):
    """60 MB of text, of which the numbers take 38 MB; other keys in the records cost nothing."""
    load = np.random.default_rng(0).integers(0, 100_000, (58, 256)).tolist()
    record = json.dumps({"logical_expert_load": load, "physical_expert_load": load})
    path = tmp_path / "large.json"
    with path.open("w") as file:
        file.write('{"load_history": [')
        file.write(",".join([record] * 320))
        file.write("]}")
    assert path.stat().st_size > 60_000_000
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    cost, *heavy = done.stdout.split()
    numbers = 320 * 58 * 256 * 8
    assert int(cost) < 1.5 * numbers + 16 * 2**20
    assert not heavy, "reading a trace must not import anything slow"

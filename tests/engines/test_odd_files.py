"""Recordings and placements as people have them: the right counts, or one line that helps.

Run: python -m pytest tests/engines/test_odd_files.py
"""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from eplb import trace as traces
from eplb.common import UserError
from eplb.engines import registry

ROWS = [[54, 475, 68, 476], [72, 7, 1144, 267], [667, 198, 535, 159]]
ARRAY = np.array(ROWS)
TWICE = np.stack([ARRAY, 2 * ARRAY])
IDLE = np.array([ROWS[0], [0] * 4, ROWS[2], [0] * 4])
MODEL = np.concatenate([np.zeros((3, 4), int), ARRAY])  # as if after three dense layers


def text(content: str, **options):
    return lambda path: path.write_text(content, **options)


def dump(content: object):
    return lambda path: path.write_text(json.dumps(content))


def torch_file(content: object):
    return lambda path: torch.save(content, path)


def numpy_file(**arrays):
    def write(path: Path):
        with path.open("wb") as file:
            np.savez(file, **arrays) if arrays.keys() != {"array"} else np.save(
                file, *arrays.values()
            )

    return write


def gzipped(content: bytes):
    return lambda path: path.write_bytes(gzip.compress(content))


def long_table(delimiter: str = ",", header: str = "layer_id,expert_id,count", first: int = 3):
    lines = [header] if header else []
    lines += [f"{first + n},{e},{c}" for n, row in enumerate(ROWS) for e, c in enumerate(row)]
    return text("\n".join(lines).replace(",", delimiter) + "\n")


def wide_table(delimiter: str = ",", header: str = "", index: bool = False):
    rows = [([n + 3] if index else []) + row for n, row in enumerate(ROWS)]
    lines = [header] * bool(header) + [delimiter.join(map(str, row)) for row in rows]
    return text("\n".join(lines))


# name: file name, how it is made, counts [iterations, layers, experts] and the layers' numbers
READ = {
    "byte-order mark": (
        "a.json",
        text(json.dumps({"weight": ROWS}), encoding="utf-8-sig"),
        ARRAY,
        0,
    ),
    "gzip": ("a.json.gz", gzipped(json.dumps(ROWS).encode()), ARRAY, 0),
    "npy": ("a.npy", numpy_file(array=TWICE), TWICE, 0),
    "float32 npy": ("a.npy", numpy_file(array=ARRAY.astype(np.float32)), ARRAY, 0),
    "unsigned npy": ("a.npy", numpy_file(array=ARRAY.astype(np.uint16)), ARRAY, 0),
    "npz with another key": ("a.npz", numpy_file(tokens=ARRAY), ARRAY, 0),
    "npz with layers as keys": (
        "a.npz",
        numpy_file(layer_4=ARRAY[1], layer_3=ARRAY[0]),
        ARRAY[:2],
        3,
    ),
    "bare tensor": ("a.pt", torch_file(torch.tensor(TWICE)), TWICE, 0),
    "bfloat16 tensor": (
        "a.pt",
        torch_file(torch.tensor([[1, 2]], dtype=torch.bfloat16)),
        [[1, 2]],
        0,
    ),
    "list of tensors": ("a.pt", torch_file(list(torch.tensor(TWICE))), TWICE, 0),
    "layers as numbers": (
        "a.pt",
        torch_file({3: ARRAY[0].tolist(), 4: ARRAY[1].tolist()}),
        ARRAY[:2],
        3,
    ),
    "layers as module names": (
        "a.pt",
        torch_file({f"model.layers.{n}.mlp": torch.tensor(TWICE[:, n]) for n in range(3)}),
        TWICE,
        0,
    ),
    "layers as text": ("a.json", dump({f"{n}": row for n, row in enumerate(ROWS, 3)}), ARRAY, 3),
    "an idle layer by number": (
        "a.json",
        dump({"layer_2": [0, 0], "layer_3": [1, 2]}),
        [[0, 0], [1, 2]],
        2,
    ),
    "MindIE's counts": (
        "a.json",
        dump({"1": {"0": 5, "3": 7}, "0": {"1": 2, "2": 1}}),
        [[0, 2, 1, 0], [5, 0, 0, 7]],
        0,
    ),
    "loads without a type of record": ("a.json", dump({"expert_load": ROWS}), ARRAY, 0),
    "an idle layer of bare counts": ("a.json", dump(IDLE.tolist()), IDLE, 0),
    "averages": ("a.json", dump((ARRAY / 7).tolist()), np.rint(ARRAY / 7 * 1e4), 0),
    "shares": ("a.json", dump([[0.5, 0.25, 0.25, 0.0]]), [[500000, 250000, 250000, 0]], 0),
    "SGLang's table": ("a.csv", long_table(), ARRAY, 3),
    "semicolons": ("a.csv", long_table(";", "Layer;Expert;Tokens"), ARRAY, 3),
    "tabs, without a suffix": (
        "table",
        long_table("\t", "layer\texpert_id\ttoken_count"),
        ARRAY,
        3,
    ),
    "steps in a table": (
        "a.csv",
        text("step,rank,layer,expert,count\n7,0,0,0,1\n7,1,0,0,2\n9,0,0,1,4\n"),
        [[[3, 0]], [[0, 0]], [[0, 4]]],
        0,
    ),
    "a wide table": ("a.csv", wide_table(), ARRAY, 0),
    "a wide table with a header": ("a.csv", wide_table(header="e0,e1,e2,e3"), ARRAY, 0),
    "a wide table with layers": ("a.tsv", wide_table("\t", "layer\ta\tb\tc\td", True), ARRAY, 3),
    "numpy's savetxt": ("a.txt", lambda path: np.savetxt(path, ARRAY, header="tokens"), ARRAY, 0),
    "layers in logical_count": ("a.json", dump({"logical_count": {3: [1, 2]}}), [[1, 2]], 3),
    "SGLang with dense layers": ("a.json", dump({"logical_count": MODEL.tolist()}), ARRAY, 3),
    "SGLang with idle layers": (
        "a.json",
        dump({"logical_count": [[0] * 4, *IDLE.tolist()]}),
        IDLE,
        1,
    ),
}


@pytest.mark.parametrize("name", READ)
def test_odd_recordings_are_read(tmp_path, name):
    file, make, counts, first = READ[name]
    make(tmp_path / file)
    statistics = registry.read_statistics(tmp_path / file)
    counts = np.asarray(counts)
    assert np.array_equal(statistics.loads, counts if counts.ndim == 3 else counts[None])
    assert statistics.layers == tuple(range(first, first + counts.shape[-2]))


class Anything:
    """What a pickle may hold."""


def changed(value: object) -> list:
    rows = json.loads(json.dumps(ROWS))
    rows[1][2] = value
    return rows


cell = "layer 1, expert 2 is "
REFUSED = {
    "NaN": (
        "a.json",
        text(json.dumps({"weight": changed(float("nan"))})),
        cell + "nan, not a count",
    ),
    "infinity": ("a.npy", numpy_file(array=np.array(changed(np.inf))), cell + "inf, not a count"),
    "overflow": ("a.json", dump(changed(-(2.0**31) + 5)), cell + "-2147483643, negative: a 32-bit"),
    "text": ("a.json", dump([["54", "475"]]), "layer 0, expert 0 is '54', not a number"),
    "null": ("a.json", dump(changed(None)), cell + "None, not a number"),
    "enormous": ("a.json", dump(changed(2**70)), "no recording has so many"),
    "an iteration's": (
        "a.npy",
        numpy_file(array=np.array([ROWS, changed(-3)])),
        "iteration 1, layer 1, expert 2 is -3",
    ),
    "bool tensor": ("a.pt", torch_file(torch.tensor([[True, False]])), "is True, not a number"),
    "one dimension": ("a.npy", numpy_file(array=ARRAY[0]), r"shape \[4\]; they must be \[layers"),
    "four dimensions": ("a.npy", numpy_file(array=ARRAY[None, None]), r"shape \[1, 1, 3, 4\]"),
    "no experts": ("a.npy", numpy_file(array=np.zeros((3, 0))), r"shape \[1, 3, 0\]"),
    "no tokens": ("a.json", dump([[0, 0]]), "no expert received any token"),
    "mixed shapes": (
        "a.json",
        dump({"3": [1, 2], "4": [1, 2, 3]}),
        "4 has 3 values and the first one 2",
    ),
    "pickled objects": ("a.pt", torch_file({"a": Anything()}), "could run any code"),
    "a pickle": ("a.pkl", lambda path: path.write_bytes(pickle.dumps(Anything())), "could run any"),
    "a byte of a pickle": ("a.pt", lambda path: path.write_bytes(b"\x80\x80"), "truncated or no"),
    "numpy objects": (
        "a.npy",
        lambda path: np.save(path, np.array([Anything()]), allow_pickle=True),
        "could run any code",
    ),
    "sparse tensor": ("a.pt", torch_file(torch.eye(3).to_sparse()), "no plain array of numbers"),
    "several arrays": ("a.npz", numpy_file(a=ARRAY, b=ARRAY), "dictionary of a, b; put the token"),
    "layers of other iterations": (
        "a.json",
        dump({"3": [[1, 2]], "4": [[1, 2], [3, 4]]}),
        "4 has 2 values and the first one 1",
    ),
    "JSON lines": ("a.jsonl", text('{"step": 1}\n{"step": 2}\n'), "2 records with the keys step"),
    "text behind JSON": ("a.json", text("[[1, 2]] and"), "not valid JSON"),
    "thousands": ("a.csv", text('layer,expert,count\n0,0,"1,234"\n'), "'1,234' in row 1 is not a"),
    "nesting without end": ("a.json", text("[" * 10**5), "not valid JSON"),
    "UTF-16": ("a.json", text("[[1, 2]]", encoding="utf-16"), "UTF-16 text .save it as UTF-8"),
    "an empty file": ("a.json", text(""), "is an empty file, which is in no known format"),
    "words": ("a.txt", text("hello\nworld\n"), "a file that begins with 'hello'"),
    "another encoding": ("a.json", text('{"ä": 1}', encoding="latin-1"), "not UTF-8 text"),
    "a cut gzip": ("a.gz", lambda p: p.write_bytes(gzip.compress(b"[[1, 2]]")[:-9]), "truncated"),
    "a table without header": ("a.csv", long_table(header=""), "add layer_id,expert_id,count"),
    "a table of other columns": ("a.csv", text("expert,x\n1,2\n"), "no column for the layer, only"),
    "text in a table": ("a.csv", text("layer,expert,count\n0,0,5\n0,1,?\n"), r"'\?' in row 2"),
    "half a layer": ("a.csv", text("layer,expert,count\n0.5,0,5\n"), "row 1 has no whole layer"),
    "a ragged table": ("a.csv", text("1,2,3,4\n1,2,3\n"), "row 2 has 3 columns, not 4"),
    "a header alone": ("a.csv", text("1,2,3,4\nlayer,5,6,7\n"), "'layer' in row 2"),
    "YAML with tabs": ("a.yaml", text("num_slots:\t4\n\tload_balancer: 3\n"), "not valid YAML"),
    "a safetensors file": (
        "rank0.safetensors",
        lambda path: save_file({"0_0": ARRAY[0]}, path),
        "in no known format",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_odd_recordings_are_refused_in_a_line_that_helps(tmp_path, name):
    file, make, message = REFUSED[name]
    make(tmp_path / file)
    with pytest.raises(UserError, match=message) as error:
        registry.read_statistics(tmp_path / file)
    assert file in str(error.value)


def test_empty_folders_and_missing_files(tmp_path):
    with pytest.raises(UserError, match="a folder of nothing, which is in no known format"):
        registry.read_statistics(tmp_path)
    (tmp_path / "moe_load_0.npy").touch()
    with pytest.raises(UserError, match="a folder of moe_load_0.npy.*give one of its files"):
        registry.read_statistics(tmp_path)
    with pytest.raises(UserError, match="does not exist; check the path"):
        registry.read_statistics(tmp_path / "nowhere")


def test_layers_in_every_second_place_leave_the_dense_ones_between_out(tmp_path):
    rows = np.zeros((9, 4), int)
    rows[1::2] = 5
    rows[5] = 0
    (tmp_path / "a.json").write_text(json.dumps({"logical_count": rows.tolist()}))
    statistics = registry.read_statistics(tmp_path / "a.json")
    assert statistics.layers == (1, 3, 5, 7)
    assert "no token in layer 5" in statistics.notes[0]


def test_the_first_moe_layer_can_be_told(tmp_path):
    """Of MoE rows alone; of all rows, where early MoE layers got no token; and wrongly."""
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "b.json").write_text(json.dumps({"logical_count": MODEL.tolist()}))
    told = registry.read_statistics(tmp_path / "a.json", first_moe_layer=3)
    assert (told.layers, told.moe_layers_only) == ((3, 4, 5), False)
    told = registry.read_statistics(tmp_path / "b.json", first_moe_layer=1)
    assert told.layers == (1, 2, 3, 4, 5) and "layers 1 to 2" in told.notes[0]
    for file, first, message in (("b", 4, "layer 3 has tokens"), ("a", -1, "layers count from 0")):
        with pytest.raises(UserError, match=message):
            registry.read_statistics(tmp_path / f"{file}.json", first_moe_layer=first)
    (tmp_path / "c.json").write_text('{"3": [1, 2], "4": [1, 2]}')
    with pytest.raises(UserError, match="number their layers themselves, from 3"):
        registry.read_statistics(tmp_path / "c.json", first_moe_layer=2)


def test_a_gzipped_trace_keeps_its_name_in_messages(tmp_path):
    trace = traces.Trace(TWICE, traces.TraceHeader(num_gpus=2, num_replicas=6))
    traces.write_trace(tmp_path / "trace.json", trace)
    packed = tmp_path / "trace.json.gz"
    packed.write_bytes(gzip.compress((tmp_path / "trace.json").read_bytes()))
    again = registry.read_statistics(packed)
    assert np.array_equal(again.loads, TWICE)
    assert (again.header.num_gpus, again.header.num_replicas) == (2, 6)
    packed.write_bytes(gzip.compress((tmp_path / "trace.json").read_bytes()[:-30]))
    with pytest.raises(UserError, match=f"trace {packed} "):
        registry.read_statistics(packed)


def test_a_dump_of_one_rank_of_many_is_warned_about(tmp_path):
    rows = np.zeros((4, 32), int)
    rows[:, :8] = 100
    (tmp_path / "a.json").write_text(json.dumps({"logical_count": rows.tolist()}))
    statistics = registry.read_statistics(tmp_path / "a.json")
    assert statistics.num_experts == 32 and "75% of the experts never" in statistics.notes[0]

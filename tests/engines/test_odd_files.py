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
from tests.engines.samples import ARRAY, MODEL, ROWS

TWICE = np.stack([ARRAY, 2 * ARRAY])
IDLE = np.array([ROWS[0], [0] * 4, ROWS[2], [0] * 4])


def text(file: str, content: str, **options):
    """A file's name and what writes it, as all that follow."""
    return file, lambda path: path.write_text(content, **options)


def dump(content: object):
    return text("a.json", json.dumps(content))


def raw(file: str, content: bytes):
    return file, lambda path: path.write_bytes(content)


def torch_file(content: object):
    return "a.pt", lambda path: torch.save(content, path)


def npy(array: object):
    return "a.npy", lambda path: np.save(path, array, allow_pickle=True)


def npz(**arrays):
    return "a.npz", lambda path: np.savez(path, **arrays)


def long_table(file: str = "a.csv", header: str = "layer_id,expert_id,count", delimiter=","):
    lines = [header] if header else []
    lines += [f"{n},{e},{c}" for n, row in enumerate(ROWS, 3) for e, c in enumerate(row)]
    return text(file, "\n".join(lines).replace(",", delimiter) + "\n")


def wide_table(header: str = ""):
    lines = [header] * bool(header) + [",".join(map(str, row)) for row in ROWS]
    return text("a.csv", "\n".join(lines))


def cut(made, at: int):
    """The same file without its end."""
    file, write = made

    def write_and_cut(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[:at])

    return file, write_and_cut


MODULES = {f"model.layers.{n}.mlp": torch.tensor(TWICE[:, n]) for n in range(3)}
NUMBERED = "layer\ta\tb\tc\td\n" + "\n".join(
    "\t".join(map(str, [n, *row])) for n, row in enumerate(ROWS, 3)
)
STEPS = "step,rank,layer,expert,count\n7,0,0,0,1\n7,1,0,0,2\n9,0,0,1,4\n"
MINDIE = {"1": {"0": 5, "3": 7}, "0": {"1": 2, "2": 1}}

# name: the file, its counts [iterations, layers, experts] and the layers' numbers
READ = {
    "byte-order mark": (text("a.json", json.dumps(ROWS), encoding="utf-8-sig"), ARRAY, 0),
    "gzip": (raw("a.json.gz", gzip.compress(json.dumps(ROWS).encode())), ARRAY, 0),
    "npy": (npy(TWICE), TWICE, 0),
    "float32 npy": (npy(ARRAY.astype(np.float32)), ARRAY, 0),
    "unsigned npy": (npy(ARRAY.astype(np.uint16)), ARRAY, 0),
    "npz with another key": (npz(tokens=ARRAY), ARRAY, 0),
    "npz with layers as keys": (npz(layer_4=ARRAY[1], layer_3=ARRAY[0]), ARRAY[:2], 3),
    "bare tensor": (torch_file(torch.tensor(TWICE)), TWICE, 0),
    "bfloat16 tensor": (torch_file(torch.tensor([[1, 2]], dtype=torch.bfloat16)), [[1, 2]], 0),
    "list of tensors": (torch_file(list(torch.tensor(TWICE))), TWICE, 0),
    "layers as numbers": (torch_file({3: ROWS[0], 4: ROWS[1]}), ARRAY[:2], 3),
    "layers as module names": (torch_file(MODULES), TWICE, 0),
    "layers as text": (dump({f"{n}": row for n, row in enumerate(ROWS, 3)}), ARRAY, 3),
    "an idle layer by number": (dump({"layer_2": [0, 0], "layer_3": [1, 2]}), [[0, 0], [1, 2]], 2),
    "MindIE's counts": (dump(MINDIE), [[0, 2, 1, 0], [5, 0, 0, 7]], 0),
    "loads without a type of record": (dump({"expert_load": ROWS}), ARRAY, 0),
    "an idle layer of bare counts": (dump(IDLE.tolist()), IDLE, 0),
    "averages": (dump((ARRAY / 7).tolist()), np.rint(ARRAY / 7 * 1e4), 0),
    "shares": (dump([[0.5, 0.25, 0.25, 0.0]]), [[500000, 250000, 250000, 0]], 0),
    "SGLang's table": (long_table(), ARRAY, 3),
    "semicolons": (long_table(header="Layer;Expert;Tokens", delimiter=";"), ARRAY, 3),
    "tabs, without a suffix": (
        long_table("table", "layer\texpert_id\ttoken_count", "\t"),
        ARRAY,
        3,
    ),
    "steps in a table": (text("a.csv", STEPS), [[[3, 0]], [[0, 0]], [[0, 4]]], 0),
    "a wide table": (wide_table(), ARRAY, 0),
    "a wide table with a header": (wide_table("e0,e1,e2,e3"), ARRAY, 0),
    "a wide table with layers": (text("a.tsv", NUMBERED), ARRAY, 3),
    "numpy's savetxt": (
        ("a.txt", lambda path: np.savetxt(path, ARRAY, header="tokens")),
        ARRAY,
        0,
    ),
    "layers in logical_count": (dump({"logical_count": {3: [1, 2]}}), [[1, 2]], 3),
    "SGLang with dense layers": (dump({"logical_count": MODEL.tolist()}), ARRAY, 3),
    "SGLang with idle layers": (dump({"logical_count": [[0] * 4, *IDLE.tolist()]}), IDLE, 1),
}


@pytest.mark.parametrize("name", READ)
def test_odd_recordings_are_read(tmp_path, name):
    (file, make), counts, first = READ[name]
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


def table(*rows: str):
    return text("a.csv", "\n".join(["layer,expert,count", *rows, ""]))


CELL = "layer 1, expert 2 is "
TWO_STEPS = '{"step": 1}\n{"step": 2}\n'
WITHOUT_DEVICE_0 = {
    "moe_layer_count": 1,
    "layer_list": [
        {"layer_id": 0, "device_count": 2, "device_list": [{"device_id": 1, "device_expert": [0]}]}
    ],
}

# name: the file, and what the message says of it
REFUSED = {
    "NaN": (dump({"weight": changed(float("nan"))}), CELL + "nan, not a count"),
    "infinity": (npy(changed(np.inf)), CELL + "inf, not a count"),
    "overflow": (dump(changed(-(2.0**31) + 5)), CELL + "-2147483643, negative: a 32-bit"),
    "text": (dump([["54", "475"]]), "layer 0, expert 0 is '54', not a number"),
    "null": (dump(changed(None)), CELL + "None, not a number"),
    "enormous": (dump(changed(2**70)), "no recording has so many"),
    "enormous fraction": (dump({"weight": [[1e300, 1]]}), "no recording has so many"),
    "an iteration's": (npy([ROWS, changed(-3)]), "iteration 1, layer 1, expert 2 is -3"),
    "bool tensor": (torch_file(torch.tensor([[True, False]])), "is True, not a number"),
    "one dimension": (npy(ARRAY[0]), r"shape \[4\]; they must be \[layers"),
    "four dimensions": (npy(ARRAY[None, None]), r"shape \[1, 1, 3, 4\]"),
    "no experts": (npy(np.zeros((3, 0))), r"shape \[1, 3, 0\]"),
    "no tokens": (dump([[0, 0]]), "no expert received any token"),
    "mixed shapes": (dump({"3": [1, 2], "4": [1, 2, 3]}), "4 has 3 values and the first one 2"),
    "ragged": (dump({"logical_count": [[1, 2], [3]]}), "1 has 1 values and the first one 2"),
    "pickled objects": (torch_file({"a": Anything()}), "could run any code"),
    "a pickle": (raw("a.pkl", pickle.dumps(Anything())), "could run any"),
    "a byte of a pickle": (raw("a.pt", b"\x80\x80"), "truncated or no"),
    "numpy objects": (npy(np.array([Anything()])), "could run any code"),
    "sparse tensor": (torch_file(torch.eye(3).to_sparse()), "no plain array of numbers"),
    "several arrays": (npz(a=ARRAY, b=ARRAY), "dictionary of a, b; put the token"),
    "layers of other iterations": (
        dump({"3": [[1, 2]], "4": [[1, 2], [3, 4]]}),
        "4 has 2 values and the first one 1",
    ),
    "nothing known": (dump({"a": 1}), "a dictionary of a; put the token counts under 'weight'"),
    "JSON lines": (text("a.jsonl", TWO_STEPS), "2 records with the keys step"),
    "text behind JSON": (text("a.json", "[[1, 2]] and"), "not valid JSON"),
    "cut JSON": (text("a.json", '{"logical_count": [[1'), "not valid JSON"),
    "nesting without end": (text("a.json", "[" * 10**5), "not valid JSON"),
    "UTF-16": (text("a.json", "[[1, 2]]", encoding="utf-16"), "UTF-16 text .save it as UTF-8"),
    "another encoding": (text("a.json", '{"ä": 1}', encoding="latin-1"), "not UTF-8 text"),
    "an empty file": (text("a.json", ""), "is an empty file, which is in no known format"),
    "words": (text("a.txt", "hello\nworld\n"), "a file that begins with 'hello'"),
    "a cut gzip": (cut(raw("a.gz", gzip.compress(b"[[1, 2]]")), -9), "truncated"),
    "a cut tensor": (cut(torch_file(torch.ones(3, 4, 500)), -200), "truncated"),
    "a cut npz": (cut(npz(tokens=TWICE), -200), "truncated"),
    "a table without header": (long_table(header=""), "add layer_id,expert_id,count"),
    "a table of other columns": (text("a.csv", "expert,x\n1,2\n"), "no column for the layer, only"),
    "thousands": (table('0,0,"1,234"'), "'1,234' in row 1 is not a"),
    "text in a table": (table("0,0,5", "0,1,?"), r"'\?' in row 2"),
    "half a layer": (table("0.5,0,5"), "row 1 has no whole layer"),
    "a ragged table": (text("a.csv", "1,2,3,4\n1,2,3\n"), "row 2 has 3 columns, not 4"),
    "a header alone": (text("a.csv", "1,2,3,4\nlayer,5,6,7\n"), "'layer' in row 2"),
    "YAML with tabs": (text("a.yaml", "num_slots:\t4\n\tload_balancer: 3\n"), "not valid YAML"),
    "a safetensors file": (
        ("rank0.safetensors", lambda path: save_file({"0_0": ARRAY[0]}, path)),
        "in no known format",
    ),
    "a placement": (
        dump({"physical_to_logical_map": [[0, 1]]}),
        "holds placements, not statistics",
    ),
    "a map cut short": (dump({"moe_layer_count": 1}), "layer_list"),
    "a device lost": (dump(WITHOUT_DEVICE_0), "layer 0 lacks a device"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_odd_recordings_are_refused_in_a_line_that_helps(tmp_path, name):
    (file, make), message = REFUSED[name]
    make(tmp_path / file)
    with pytest.raises(UserError, match=message) as error:
        registry.read_statistics(tmp_path / file)
    assert file in str(error.value)


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

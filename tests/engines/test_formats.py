"""Every engine's files come back as they were written, and every broken one is named in a line.

Run it with `pytest tests/engines/test_formats.py`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file as save_torch_file

from eplb.common import UserError
from eplb.engines import registry, tensorrt_llm
from eplb.engines.model import EnginePlacement
from eplb.engines.source import Source
from tests.engines.samples import placements, statistics, write_ranks

few = settings(max_examples=25, deadline=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("round_trips")


@few
@given(placements())
def test_tensorrt_llm_reads_back_the_placement(folder, placement):
    path = folder / "balancer.yaml"
    tensorrt_llm.write_placement(path, replace(placement, layer_updates_per_iter=2))
    again = registry.read_placement(path)
    assert np.array_equal(again.phy2log, placement.phy2log)
    assert (again.layers, again.num_experts) == (placement.layers, placement.num_experts)
    assert again.layer_updates_per_iter == 2


@few
@given(placements())
def test_tensorrt_llm_yaml_keeps_the_engines_rules(folder, placement):
    """Read with PyYAML alone, by the rules of the engine's documentation."""
    path = folder / "rules.yaml"
    tensorrt_llm.write_placement(path, placement)
    config = yaml.safe_load(path.read_text())
    assert list(config) == ["num_slots", "layer_updates_per_iter", "initial_global_assignments"]
    assert list(config["initial_global_assignments"]) == list(placement.layers)
    per_rank = config["num_slots"] // placement.num_gpus
    for row, experts in enumerate(config["initial_global_assignments"].values()):
        assert len(experts) == config["num_slots"]
        assert set(experts) == set(range(placement.num_experts))
        ranks = [experts[rank * per_rank :][:per_rank] for rank in range(placement.num_gpus)]
        assert sum(ranks, []) == placement.phy2log[row].tolist()


def test_tensorrt_llm_writes_each_layer_in_one_line(tmp_path):
    slots = np.tile(np.arange(320) % 256, (2, 1))
    tensorrt_llm.write_placement(tmp_path / "b.yaml", EnginePlacement(slots, (3, 4), 256))
    assert len((tmp_path / "b.yaml").read_text().splitlines()) == 5


@few
@given(placements(), st.sampled_from([".json", ".pt"]))
def test_sglang_reads_back_the_placement(folder, placement, suffix):
    path = folder / f"location{suffix}"
    registry.FORMATS["sglang"].write_placement(path, placement)
    again = registry.read_placement(path)
    assert np.array_equal(again.phy2log[list(placement.layers)], placement.phy2log)
    # Layers without experts hold their place: one row a layer, or later layers would shift.
    assert again.layers == tuple(range(max(placement.layers) + 1))
    dense = sorted(set(again.layers) - set(placement.layers))
    assert (again.phy2log[dense] == np.arange(placement.phy2log.shape[1]) % again.num_experts).all()


@few
@given(placements(one_replica_per_gpu=True))
def test_vllm_ascend_reads_back_the_placement(folder, placement):
    path = folder / "expert_map.json"
    registry.FORMATS["vllm-ascend"].write_placement(path, placement)
    again = registry.read_placement(path)
    assert np.array_equal(again.phy2log, placement.phy2log)
    assert again.num_gpus == placement.num_gpus
    assert again.layers == tuple(range(len(placement.layers)))
    # The engine finds a layer by its place in the list and a device likewise.
    written = json.loads(path.read_text())
    assert written["moe_layer_count"] == len(placement.layers)
    for row, layer in enumerate(written["layer_list"]):
        experts = [device["device_expert"] for device in layer["device_list"]]
        assert np.array_equal(np.concatenate(experts), placement.phy2log[row])


def test_vllm_ascend_refuses_an_expert_twice_on_a_device(tmp_path):
    doubled = EnginePlacement(np.array([[0, 1, 2, 2]]), (0,), 3, num_gpus=2)
    with pytest.raises(UserError, match="layer 0: device 1 holds expert 2 twice"):
        registry.FORMATS["vllm-ascend"].write_placement(tmp_path / "map.json", doubled)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("counts", "counts.json"),
        ("counts", "counts.npz"),
        ("trace", "trace.json"),
    ],
)
@few
@given(seed=st.integers(0, 1000), layers=st.integers(1, 4), idle=st.booleans())
def test_statistics_read_back(tmp_path_factory, name, file, seed, layers, idle):
    """A layer and an iteration without tokens keep their place."""
    recorded = statistics(layers=tuple(range(layers + 1)), seed=seed)
    if idle:
        recorded.loads[:, 0] = 0
        recorded.loads[3] = 0
    path = tmp_path_factory.mktemp("statistics") / file
    registry.FORMATS[name].write_statistics(path, recorded)
    assert registry.detect(Source(path)) == name
    again = registry.read_statistics(path)
    assert np.array_equal(again.loads, recorded.loads)
    assert (again.layers, again.moe_layers_only) == (recorded.layers, True)


def test_sglang_folder_of_dumps_is_read_in_order_without_unused_buffer_places(tmp_path):
    recorded = statistics(iterations=6, layers=(1, 2))
    rows = np.zeros((8, 3, 16), dtype=np.int32)
    rows[:6, 1:] = recorded.loads
    for number, part in enumerate((rows[:3], rows[3:])):
        dump = {"rank": 0, "logical_count": torch.from_numpy(part)}
        torch.save(dump, tmp_path / f"expert_distribution_recorder_{number}.5.pt")
    again = registry.read_statistics(tmp_path)
    assert np.array_equal(again.loads, recorded.loads)
    assert again.layers == (1, 2) and again.model_layers == 3


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64])
def test_ranks_add_up(tmp_path, dtype):
    recorded = statistics()
    write_ranks(tmp_path, recorded, dtype=dtype)
    (tmp_path / "rank0_raw.safetensors").write_bytes(b"not statistics")
    again = registry.read_statistics(tmp_path)
    assert np.array_equal(again.loads, recorded.loads)
    assert (again.layers, again.iterations) == (recorded.layers, recorded.iterations)
    assert (again.header.num_gpus, again.header.top_k) == (4, 2)


def test_bfloat16_counts_are_read(tmp_path):
    counts = torch.arange(16, dtype=torch.bfloat16)
    (tmp_path / "meta_info.json").write_text('{"num_experts": 16}')
    save_torch_file({"0_0": counts}, tmp_path / "rank0.safetensors")
    assert registry.read_statistics(tmp_path).loads[0, 0].tolist() == list(range(16))


def test_iterations_are_chosen_without_the_last(tmp_path):
    recorded = statistics()
    write_ranks(tmp_path, recorded)
    chosen = registry.read_statistics(tmp_path, 105, 110)
    assert chosen.iterations == range(105, 110)
    assert np.array_equal(chosen.loads, recorded.loads[5:10])
    with pytest.raises(UserError, match="iterations 90 to 120 .* have 100 to 120"):
        registry.read_statistics(tmp_path, 90)


YAMLS = {
    "not yaml": ("num_slots: [", "not valid YAML"),
    "no map": ("num_slots: 4", "experts in order and moves them while it serves"),
    "short list": (
        "num_slots: 4\ninitial_global_assignments: {3: [0, 1, 2], 4: [0, 1, 2, 0]}",
        "layer 4 has 4 slots, layer 3 has 3",
    ),
    "wrong num_slots": (
        "num_slots: 5\ninitial_global_assignments: {3: [0, 1, 2, 0]}",
        "num_slots is 5, the lists have 4",
    ),
    "missing expert": (
        "num_slots: 4\ninitial_global_assignments: {3: [0, 1, 2, 3], 4: [0, 1, 3, 3]}",
        "layer 4 has no slot for expert 2",
    ),
    "enormous": (
        "num_slots: 2\ninitial_global_assignments: {3: [0, 999999999999]}",
        "2 slots cannot hold 1000000000000 experts",
    ),
    "negative": (
        "num_slots: 3\ninitial_global_assignments: {3: [0, 1, -1]}",
        "the map of experts, layer 3, slot 2 is -1",
    ),
    "words": ("num_slots: 2\ninitial_global_assignments: {3: [a, b]}", 'layer 3, slot 0 is "a"'),
    "named layers": ("num_slots: 2\ninitial_global_assignments: {a: [0, 1]}", "layer numbers"),
}


@pytest.mark.parametrize("fault", YAMLS)
def test_broken_configurations_are_named(tmp_path, fault):
    text, message = YAMLS[fault]
    (tmp_path / "balancer.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        registry.read_placement(tmp_path / "balancer.yaml")


def test_an_older_recording_is_not_added_to(tmp_path):
    tensorrt_llm.write_statistics(tmp_path / "new", statistics())
    again = registry.read_statistics(tmp_path / "new")
    assert np.array_equal(again.loads, statistics().loads) and again.layers == (3, 4, 5)
    with pytest.raises(UserError, match="already holds statistics"):
        tensorrt_llm.check_vacant(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; statistics are a folder"):
        tensorrt_llm.check_vacant(tmp_path / "file")


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text("ab"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["layer_id", "device_list", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = [
    "logical_count",
    "physical_to_logical_map",
    "moe_layer_count",
    "layer_list",
    "weight",
    "load_history",
    "num_slots",
    "initial_global_assignments",
]


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), junk, min_size=1), st.sampled_from(["json", "yaml"]))
def test_junk_is_refused_without_a_traceback(folder, content, kind):
    path = folder / "junk"
    path.write_text(json.dumps(content) if kind == "json" else yaml.safe_dump(content))
    for read in (registry.read_statistics, registry.read_placement):
        try:
            read(path)
        except UserError as error:
            assert "junk" in str(error)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=40), st.sampled_from([b"", b"PK\x03\x04", b"{", b"num_slots: "]))
def test_junk_bytes_are_refused_without_a_traceback(folder, content, start):
    (folder / "junk").write_bytes(start + content)
    for read in (registry.read_statistics, registry.read_placement):
        with pytest.raises(UserError, match="junk"):
            read(folder / "junk")

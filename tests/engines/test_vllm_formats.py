"""Files of vLLM's open proposals, and a recording on its way through every command.

python -m pytest tests/engines/test_vllm_formats.py -q
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings

from eplb import loadstats
from eplb.common import UserError, project_file
from eplb.engines import registry, vllm_proposals
from eplb.loads import balancedness, gpu_loads
from eplb.placement import Deployment, ExpertPlacement
from tests.engines.samples import placements, statistics
from tests.planning.commands import generated, reported
from tests.strategies import random_loads, random_phy2log, seeds

SIZES = Deployment(24, 1, 1, 4)


def write_recording(path, windows: int = 20) -> np.ndarray:
    loads = statistics(iterations=windows).loads
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        "".join(loadstats.line_of(load, step, SIZES) for step, load in enumerate(loads))
    )
    return loads


@pytest.mark.parametrize("name", ["vllm-41141", "vllm-49572"])
@settings(max_examples=25, deadline=None)
@given(placements())
def test_placements_come_back_as_they_were(tmp_path_factory, name, placement):
    path = tmp_path_factory.mktemp("plan") / "map.json"
    registry.FORMATS[name].write_placement(path, placement)
    if placement.num_experts == 1 and name == "vllm-49572":
        return  # Zeros alone could be counts as well.
    back = registry.read_placement(path)
    assert registry.detect(registry.Source(path)) == name
    assert np.array_equal(back.phy2log, placement.phy2log)
    assert back.num_experts == placement.num_experts and back.moe_layers_only


def test_a_mapping_is_that_of_the_proposal(tmp_path):
    path = tmp_path / "map.json"
    placement = registry.EnginePlacement(np.array([[0, 1, 2, 0], [1, 2, 0, 1]]), (3, 4), 3)
    vllm_proposals.write_placement(path, placement)
    assert json.loads(path.read_text()) == {
        "record_type": "eplb_initial_mapping",
        "version": 1,
        "num_redundant_experts": 1,
        "num_slots": 4,
        "initial_global_assignments": {"0": [0, 1, 2, 0], "1": [1, 2, 0, 1]},
    }
    assert "\n" not in path.read_text().rstrip()


def test_one_list_stands_for_every_layer(tmp_path):
    path = tmp_path / "map.json"
    path.write_text("[0, 3, 1, 2, 2, 0]")
    recorded = tmp_path / "record" / "load.jsonl"
    recorded.parent.mkdir()
    load = random_loads(0, 3, 4) + 1
    recorded.write_text(loadstats.line_of(load, 0, Deployment(6, 1, 1, 2)))
    text, _ = reported(expert_statistic_path=recorded, eplb_config=path)
    placed = ExpertPlacement.from_phy2log(np.tile([0, 3, 1, 2, 2, 0], (3, 1)), 4)
    assert f"{balancedness(gpu_loads(load, placed, 2)):.4f}" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_slots": 5}, "num_slots is 5, the layers have 4"),
        ({"num_redundant_experts": 0}, "num_redundant_experts is 0, the layers have 1"),
        ({"initial_global_assignments": {"1": [0, 1, 2, 0]}}, "the layers from 0 on"),
        ({"initial_global_assignments": {"0": [0, 1, 3, 0]}}, "layer 0 has no slot for expert 2"),
    ],
)
def test_a_broken_mapping_says_what_is_wrong(tmp_path, change, words):
    path = tmp_path / "map.json"
    whole = {
        "record_type": "eplb_initial_mapping",
        "num_redundant_experts": 1,
        "num_slots": 4,
        "initial_global_assignments": {"0": [0, 1, 2, 0]},
    }
    path.write_text(json.dumps(whole | change))
    with pytest.raises(UserError, match=words):
        registry.read_placement(path)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_imbalance_is_that_of_the_proposals_tool(seed):
    """Σ max / Σ mean over layers, replicas splitting evenly, here written out by hand."""
    load, rows = random_loads(seed, 3, 8) + 1, random_phy2log(seed, 3, 12, 8)
    most = mean = 0.0
    for layer in range(3):
        ranks = [0.0] * 4
        for slot, expert in enumerate(rows[layer]):
            ranks[slot // 3] += load[layer, expert] / list(rows[layer]).count(expert)
        most, mean = most + max(ranks), mean + sum(ranks) / 4
    placement = ExpertPlacement.from_phy2log(rows, 8)
    assert 1 / balancedness(gpu_loads(load, placement, 4)) == pytest.approx(most / mean)


def test_statistics_come_back_and_foreign_lines_are_skipped(tmp_path):
    path = tmp_path / "stats.jsonl"
    recorded = statistics(iterations=3)
    vllm_proposals.write_statistics(path, recorded)
    lines = path.read_text().splitlines()
    others = [{"record_type": "session_metadata", "x": 1}, {"record_type": "bench_run_start"}]
    path.write_text("\n".join([*map(json.dumps, others), *lines]) + '\n{"record_type": "eplb_lo')
    assert np.array_equal(registry.read_statistics(path).loads, recorded.loads)
    packed = tmp_path / "stats.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert np.array_equal(registry.read_statistics(packed).loads, recorded.loads)


def test_a_record_of_the_engine_is_summed_by_expert(tmp_path):
    """Slots of one expert add up, slots without one do not count; ranks and slots are known."""
    path = tmp_path / "stats.jsonl"
    record = {
        "record_type": "eplb_load_stats",
        "version": 1,
        "step": 7,
        "num_ranks": 2,
        "num_layers": 2,
        "expert_load": [[5, 1, 2, 9], [4, 3, 2, 1]],
        "p2l_map": [[0, 1, 0, -1], [1, 0, 0, 1]],
        "tokens": [3, 4],
    }
    path.write_text(json.dumps(record) + "\n")
    read = registry.read_statistics(path)
    assert read.loads.tolist() == [[[7, 1], [5, 5]]]
    assert (read.header.num_gpus, read.header.num_replicas, read.moe_layers_only) == (2, 4, True)


def test_a_record_with_its_type_behind_many_loads_is_recognised(tmp_path):
    """Keys in the alphabet's order, and more loads than the bytes that are looked at."""
    load = np.full((20, 4000), 7)
    record = json.loads(loadstats.line_of(load, 0, Deployment(4000, 1, 1, 4)))
    path = tmp_path / "stats.jsonl"
    path.write_text(json.dumps(record, sort_keys=True) + "\n")
    read = registry.read_statistics(path)
    assert np.array_equal(read.loads, load[None]) and read.header.num_gpus == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expert_load": [[1, -2]]}, "line 2: expert_load, layer 0, slot 1 is -2"),
        ({"expert_load": [[1, None]]}, "line 2: expert_load, layer 0, slot 1 is null"),
        ({"expert_load": [[1, 2, 3]]}, r"line 2: expert_load has shape \[1, 3\], p2l_map \[1, 2\]"),
        ({"p2l_map": [[0, 0]]}, "line 2 has 1 layers x 1 experts, the first one 1 x 2"),
        ({"num_ranks": "two"}, "line 2: num_ranks 'two' is not a whole number"),
    ],
)
def test_a_broken_record_names_line_layer_and_slot(tmp_path, change, words):
    path = tmp_path / "stats.jsonl"
    record = json.loads(loadstats.line_of(np.array([[3, 4]]), 0, Deployment(2, 1, 1, 2)))
    path.write_text(json.dumps(record) + "\n" + json.dumps(record | change) + "\n")
    with pytest.raises(UserError, match=words):
        registry.read_statistics(path)


def test_a_line_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "stats.jsonl"
    write_recording(path, 2)
    path.write_text(path.read_text() + "{oops\n" + path.read_text())
    with pytest.raises(UserError, match="line 3 is not JSON"):
        registry.read_statistics(path)


def test_a_folder_of_windows_is_planned_and_becomes_a_trace(tmp_path):
    """The generator knows ranks and slots from the recording."""
    folder = tmp_path / "record"
    loads = write_recording(folder / "load_3x16.jsonl")
    plan = tmp_path / "plan.json"
    made = generated(expert_statistic_path=folder, output_path=plan, format="vllm-41141")
    assert f"EPLB_VLLM_PLACEMENT={plan}" in made[0].replace("\n", " ")
    assert registry.read_placement(plan).phy2log.shape == (3, 24)
    trace = tmp_path / "trace.json"
    generated(expert_statistic_path=folder, output_path=trace, format="trace")
    assert np.array_equal(registry.read_statistics(trace).loads, loads)


def test_evaluate_scores_on_a_folder_of_windows(tmp_path):
    write_recording(tmp_path / "record" / "load_3x16.jsonl", 4)
    command = [sys.executable, str(project_file("evaluate.py")), "--program_path"]
    command += [str(project_file("initial.py")), "--trace", str(tmp_path / "record")]
    command += ["--results_dir", str(tmp_path / "results"), "--repeats", "1"]
    subprocess.run(command, check=True)
    metrics = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert metrics["combined_score"] > 0
    assert json.loads((tmp_path / "results" / "correct.json").read_text())["correct"]

"""The three commands as a user runs them: `pytest tests/planning/test_commands.py`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from eplb import trace as traces
from eplb.common import UserError
from eplb.engines import registry
from eplb.placement import Deployment
from eplb.planning import planner
from eplb.planning.load_table import tabulate
from eplb.planning.matching import align
from eplb.workload_model import WorkloadModel
from eplb.workload_model import generate as make_trace
from tests.engines.samples import statistics, write_rank, write_ranks
from tests.planning import commands
from tests.planning.commands import reported

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment or None)


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recording") / "expert_statistic"
    write_ranks(folder, statistics(layers=(3, 4), experts=256), ranks=8)
    return folder


def test_the_documented_commands(recording, tmp_path):
    """Also with --eplb_config, so that the figure before deployment is the placement's."""
    output = tmp_path / "moe_load_balancer.yaml"
    made = run(
        *("generate_eplb_config.py", "--ep_size", 8, "--num_slots", 320),
        *("--expert_statistic_path", recording, "--output_path", output),
    )
    assert made.returncode == 0, made.stderr
    config = yaml.safe_load(output.read_text())
    assert config["num_slots"] == 320 and config["layer_updates_per_iter"] == 0
    for layer in (3, 4):
        assert set(config["initial_global_assignments"][layer]) == set(range(256))
    told = run(
        *("report_load_statistics.py", "--expert_statistic_path", recording),
        *("--eplb_config", output, "--plot", tmp_path / "plot.svg"),
    )
    assert told.returncode == 0, told.stderr
    before, after = re.findall(r"^average +\S+ +\S+ +(\S+)$", told.stdout, re.MULTILINE)
    assert float(after) < 0.5 * float(before)
    assert (tmp_path / "plot.svg").exists()


def test_errors_are_one_line_with_status_2_and_no_file(recording, tmp_path):
    output = tmp_path / "out.yaml"
    made = run(
        *("generate_eplb_config.py", "--ep_size", 8, "--num_slots", 321),
        *("--expert_statistic_path", recording, "--output_path", output),
    )
    assert made.returncode == 2
    assert made.stderr.count("\n") == 1 and "320 or 328" in made.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def no_sandbox(monkeypatch):
    monkeypatch.setattr(planner, "Sandbox", commands.GreedySandbox)


def generated(recording: Path, output: Path, **options) -> tuple[str, list[str]]:
    options = {"ep_size": 8, "num_slots": 272} | options
    return commands.generated(expert_statistic_path=recording, output_path=output, **options)


def test_held_out_figures_are_those_of_the_written_file(no_sandbox, recording, tmp_path):
    output = tmp_path / "out.yaml"
    told = generated(recording, output, validate=0.25)[0]
    last = registry.read_statistics(recording, 115, None)
    placed = align(registry.read_placement(output), last, output)
    table = tabulate(last.layers, last.loads, placed.checked, Deployment(272, 1, 1, 8))
    assert f"{table.average_imbalance_ratio:.4f}" in told
    assert "held out: iterations 115 to 119" in told
    assert max(map(len, told.replace(str(output), "out").splitlines())) <= 80


def test_default_program_beats_the_engines_rule_on_a_drifting_workload(tmp_path):
    workload = WorkloadModel(layers=4, experts=64, windows=16, regime_window=None, shifts=())
    traces.write_trace(tmp_path / "trace.json", make_trace(workload))
    told = generated(
        tmp_path / "trace.json", tmp_path / "out.yaml", ep_size=8, num_slots=80, validate=0.2
    )[0]
    rows = re.findall(r"^(.+?)  +\d\.\d{4} +(\d\.\d{4})$", told, re.MULTILINE)
    figures = {name: float(figure) for name, figure in rows}
    assert figures["experts in order"] < figures["greedy, plain sum"] < figures["balanced.py"]


def test_every_placement_format_is_written(no_sandbox, recording, tmp_path):
    for name, file in {
        "sglang": "a.json",
        "vllm-ascend": "b.json",
        "tensorrt-llm": "c.yaml",
    }.items():
        told = generated(recording, tmp_path / file, format=name)[0]
        assert str(tmp_path / file) in told
        placed = align(
            registry.read_placement(tmp_path / file), registry.read_statistics(recording), file
        )
        assert placed.phy2log.shape == (2, 272)


def test_a_recording_becomes_a_trace(no_sandbox, recording, tmp_path):
    output = tmp_path / "trace.json"
    generated(recording, output, format="trace", ep_size=None, num_slots=None)
    trace = traces.read_trace(output)
    assert np.array_equal(trace.loads, registry.read_statistics(recording).loads)
    assert len(trace.windows()) >= 10
    assert vars(trace.deployment()) == vars(Deployment(256, 1, 1, 8))
    given = {"num_slots": 320, "num_groups": 8, "num_nodes": 4, "ep_size": 16}
    generated(recording, output, format="trace", **given)
    assert vars(traces.read_trace(output).deployment()) == vars(Deployment(320, 8, 4, 16))
    generated(output, tmp_path / "out.yaml", ep_size=None, num_slots=None, first_moe_layer=3)
    assert registry.read_placement(tmp_path / "out.yaml").phy2log.shape == (2, 320)


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"ep_size": 1}, "ep_size 1 leaves nothing"),
        ({"ep_size": 16}, "hold 8 ranks, ep_size is 16"),
        ({"layer_updates_per_iter": 3}, "3 is more than the 2 layers"),
        ({"num_groups": 1, "num_nodes": 2}, "does not spread over num_nodes 2"),
    ],
)
def test_what_the_engine_ignores_is_warned_about(no_sandbox, recording, tmp_path, options, warning):
    assert warning in " ".join(generated(recording, tmp_path / "out.yaml", **options)[1])


def test_groups_that_nobody_tells_are_told_from_the_loads(no_sandbox, tmp_path):
    """`--format trace` keeps them, so that programs are evolved with them too."""
    workload = WorkloadModel(layers=8, experts=64, windows=3, regime_window=None, shifts=())
    counts, output = tmp_path / "counts.json", tmp_path / "trace.json"
    counts.write_text(json.dumps(make_trace(workload).loads.tolist()))
    size = {"num_slots": 64, "format": "trace"}
    (note,) = generated(counts, output, **size)[1]
    assert "8 groups of 8 experts" in note and "give --num_groups" in note
    assert traces.read_trace(output).deployment().num_groups == 8
    assert not generated(counts, output, num_groups=2, **size)[1]
    assert traces.read_trace(output).deployment().num_groups == 2


def test_layer_numbers_that_are_not_the_models_are_warned_about(no_sandbox, recording, tmp_path):
    trace = tmp_path / "trace.json"
    assert not generated(recording, trace, format="trace")[1]
    assert "number the MoE layers" in generated(trace, tmp_path / "out.yaml")[1][0]
    told = generated(trace, tmp_path / "out.yaml", first_moe_layer=3)
    assert not told[1]
    assert registry.read_placement(tmp_path / "out.yaml").layers == (3, 4)
    told = generated(trace, tmp_path / "b.json", format="vllm-ascend", layer_updates_per_iter=1)
    assert len(told[1]) == 1 and "--layer_updates_per_iter" in told[1][0]


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("out.json", {}, "does not tell its format"),
        ("out.yaml", {"validate": 0}, "--validate 0 is not a share"),
        ("out.yaml", {"num_slots": 100}, "num_slots 100 is fewer than the 256 experts"),
        ("out.yaml", {"layer_updates_per_iter": -1}, "layer_updates_per_iter is -1"),
        ("out.yaml", {"num_groups": 7}, "num_groups 7 does not divide"),
        ("out.txt", {"format": "sglang"}, "end in .json or .pt"),
        ("", {"format": "sglang"}, "is a folder"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_written(
    recording, tmp_path, output, options, message
):
    with pytest.raises(UserError, match=message):
        generated(recording, tmp_path / output, **options)
    assert not list(tmp_path.iterdir())


def test_defaults_are_the_recorded_ranks_and_a_slot_an_expert(no_sandbox, recording, tmp_path):
    generated(recording, tmp_path / "map.json", format="vllm-ascend", ep_size=None, num_slots=None)
    placement = registry.read_placement(tmp_path / "map.json")
    assert (placement.num_gpus, placement.phy2log.shape[1]) == (8, 256)


def test_defaults_hold_for_pipeline_stages_and_uneven_ranks(no_sandbox, tmp_path):
    """Two ranks a stage; ten experts on four ranks make twelve slots."""
    for rank in range(4):
        write_rank(tmp_path / "dump", rank, {(i, rank // 2): [9, 1, 2, 3] for i in range(3)})
    output = tmp_path / "map.json"
    generated(tmp_path / "dump", output, format="vllm-ascend", ep_size=None, num_slots=None)
    placement = registry.read_placement(output)
    assert (placement.num_gpus, placement.phy2log.shape) == (2, (2, 4))
    (tmp_path / "counts.json").write_text(json.dumps([list(range(1, 11))]))
    generated(tmp_path / "counts.json", tmp_path / "out.yaml", ep_size=4, num_slots=None)
    assert registry.read_placement(tmp_path / "out.yaml").phy2log.shape == (1, 12)


def test_more_ranks_than_experts_are_written_and_reported(no_sandbox, tmp_path):
    (tmp_path / "counts.json").write_text(json.dumps([[50, 6, 7, 8]]))
    generated(tmp_path / "counts.json", tmp_path / "out.yaml", ep_size=8, num_slots=8)
    text, _ = reported(
        expert_statistic_path=tmp_path / "counts.json",
        eplb_config=tmp_path / "out.yaml",
        ep_size=8,
    )
    assert "rank of 8" in text


def test_report_asks_for_what_the_files_do_not_tell(tmp_path):
    counts = tmp_path / "counts.json"
    counts.write_text(json.dumps([[5, 6, 7, 8]]))
    with pytest.raises(UserError, match="give --ep_size or --per_expert"):
        reported(expert_statistic_path=counts)
    assert "per expert" in reported(expert_statistic_path=counts, per_expert=True)[0]
    assert "per rank of 2" in reported(expert_statistic_path=counts, ep_size=2)[0]
    location = tmp_path / "location.json"
    location.write_text('{"physical_to_logical_map": [[0, 1, 2, 3, 0]]}')
    with pytest.raises(UserError, match="5 slots do not spread over 2 ranks"):
        reported(expert_statistic_path=counts, eplb_config=location, ep_size=2)
    devices = [{"device_expert": [0, 1]}, {"device_expert": [2, 3]}]
    location.write_text(json.dumps({"layer_list": [{"device_list": devices}]}))
    with pytest.raises(UserError, match="--ep_size is 4, but the placement is one of 2 devices"):
        reported(expert_statistic_path=counts, eplb_config=location, ep_size=4)


def test_from_what_is_deployed_less_is_fetched_and_it_says_so(no_sandbox, recording, tmp_path):
    """Also that what is deployed is what comes out of a recording that says nothing new."""
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    shape = {"ep_size": 8, "num_slots": 320}
    generated(recording, first, **shape)
    told = generated(recording, second, current=first, **shape)[0]
    fetched = [int(n) for n in re.findall(r"(\d+) experts, ", told)]
    assert len(fetched) == 3 and fetched[0] >= fetched[1] >= fetched[2]
    assert registry.read_placement(second).phy2log.shape == (2, 320)
    with pytest.raises(UserError, match="has 320 slots on 8 ranks, the plan 328 on 8"):
        generated(recording, second, current=first, ep_size=8, num_slots=328)
    # Before the long work, which would fail here.
    with pytest.raises(UserError, match="no known format of placements"):
        generated(recording, second, current=__file__, program_path="nowhere.py", **shape)
    held_out = generated(recording, second, current=first, validate=0.5, **shape)[0]
    assert "layers would not pay for their moves" in held_out


def test_the_report_says_what_a_placement_gains_in_tokens_per_second(
    no_sandbox, recording, tmp_path
):
    output = tmp_path / "placement.yaml"
    generated(recording, output, ep_size=8, num_slots=320, validate=0.5)
    options = {"expert_statistic_path": recording, "eplb_config": output, "validate": 0.5}
    gains = {}
    for rule in ("even", "lp"):
        text, _ = reported(**options, dispatch=rule, hardware=["b200", "decode.tokens_per_gpu=999"])
        assert f"tokens per second on b200 decode.tokens_per_gpu=999, dispatch {rule}" in text
        gains[rule] = [float(gain) for gain in re.findall(r"([\d.]+) x experts in order", text)]
        assert len(gains[rule]) == 2 and min(gains[rule]) > 0.5
    assert gains["lp"] >= gains["even"] and gains["lp"] != gains["even"]
    with pytest.raises(UserError, match="--hardware nothing"):
        reported(**options, hardware=["nothing"])


@pytest.mark.parametrize("script", ["report_load_statistics.py", "plan_deployment.py"])
def test_a_plot_that_cannot_be_drawn_is_refused_before_the_work(script, tmp_path):
    made = run(script, "--expert_statistic_path", "none", "--plot", tmp_path / "it.foo")
    assert (made.returncode, made.stderr.count("\n")) == (2, 1)
    assert "it.foo ends in none of .png" in made.stderr

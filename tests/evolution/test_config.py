"""The configuration, as both entry points compose it."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from shinka.core import EvolutionConfig
from shinka.model_availability import PROVIDER_ENV_REQUIREMENTS

from eplb import common
from eplb.common import UserError
from eplb.evaluation.scores import SCORINGS
from eplb.evolution import ready, run
from eplb.evolution.models import OFFLINE_MODEL
from eplb.evolution.run import compose_config, with_saved
from eplb.trace import Trace, TraceHeader, write_trace


@pytest.fixture(autouse=True)
def no_keys(monkeypatch, tmp_path):
    for names in PROVIDER_ENV_REQUIREMENTS.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_example(tmp_path):
    config = compose_config([])
    assert config.evo_config.num_generations == 400
    assert config.evo_config.llm_models == [OFFLINE_MODEL]
    assert config.evo_config.meta_llm_models is None
    assert config.evo_config.max_api_costs > 0
    assert config.evo_config.use_text_feedback
    assert config.db_config.num_islands == 2
    assert config.db_config.migration_rate > 0
    assert not config.db_config.enforce_island_separation
    assert config.job_config.eval_program_path == str(common.SOURCE_TREE / "evaluate.py")
    assert config.evo_config.init_program_path == str(common.SOURCE_TREE / "initial.py")
    assert re.fullmatch(rf"{tmp_path}/results/eplb/\d{{4}}\.\d\d\.\d+_example", config.output_dir)
    assert config.evo_config.results_dir == config.output_dir


def test_overrides(tmp_path):
    config = compose_config(
        ["evo_config.num_generations=20", "models=[gpt-5.4,gpt-5.5]", "locality=require", "seed=7"]
    )
    assert config.evo_config.num_generations == 20
    assert config.evo_config.llm_models == ["gpt-5.4", "gpt-5.5"]
    assert config.evo_config.meta_llm_models == ["gpt-5.4"]
    assert config.job_config.extra_cmd_args == {"locality": "require", "scoring": "eplb"}
    assert "This run uses the track: require" in config.evo_config.task_sys_msg
    assert config.evo_config.seed == 7


def test_one_override_names_a_server_of_ones_own():
    model = "local/qwen3@http://127.0.0.1:8000/v1"
    assert compose_config([f"models={model}"]).evo_config.llm_models == [model]


def test_offline_wins_over_keys(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert "gpt-5.5" in compose_config([]).evo_config.llm_models
    assert compose_config(["offline=true"]).evo_config.llm_models == [OFFLINE_MODEL]


def test_shinkas_own_presets_still_fit():
    config = compose_config(["database=island_large", "cluster=local"])
    assert config.db_config.num_islands == 5
    assert config.evo_config.num_islands == 5


def test_the_task_states_the_formula_and_the_contract():
    message = compose_config([]).evo_config.task_sys_msg
    for words in (
        "removed * min(1, t_seed / (100 * t))",
        "(balancedness_score + speed_score) / 2",
        "rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)",
        "more than one thread",
        "child processes",
        "files",
        "network",
        "disagree",
        "require:",
    ):
        assert words in message


def test_the_task_names_the_sizes_of_the_embedded_trace():
    message = compose_config([]).evo_config.task_sys_msg
    assert "Each of 58 layers has E logical\nexperts (256)" in message
    assert "physical slots (288)" in message
    assert "(32 GPUs on 4 nodes, S = 9)" in message
    assert "(8 of 32) may matter" in message


def test_the_task_names_the_sizes_of_another_trace(tmp_path):
    path = tmp_path / "mine.json"
    header = TraceHeader(num_groups=1, num_replicas=448, num_nodes=8, num_gpus=64)
    write_trace(path, Trace(np.ones((4, 3, 384), dtype=np.int64), header))
    asked = f"+distributed_job_config.extra_cmd_args.trace={path}"
    message = compose_config([asked]).evo_config.task_sys_msg
    assert "experts (384)" in message and "physical slots (448)" in message
    assert "256" not in message and "288" not in message
    fewer = [asked, "+distributed_job_config.extra_cmd_args.num_gpus=32"]
    assert "(32 GPUs on 8 nodes, S = 14)" in compose_config(fewer).evo_config.task_sys_msg


@pytest.mark.parametrize("scoring", SCORINGS)
def test_the_task_states_the_objective_of_every_scoring(scoring):
    config = compose_config([f"scoring={scoring}"])
    assert config.job_config.extra_cmd_args.scoring == scoring
    assert config.evo_config.task_sys_msg.count("combined_score = ") == 1
    assert SCORINGS[scoring].sentence in config.evo_config.task_sys_msg


@pytest.mark.parametrize(
    "override, message",
    [
        ("nosuch=1", "nosuch"),
        ("cluster=nosuch", "cluster/nosuch"),
        ("evo_config.num_generations=[", "num_generations"),
        ("scoring=nosuch", "there is no such scoring; use eplb, "),
        ("resume=nosuch", "resume=nosuch: no run has its results there"),
    ],
)
def test_mistakes_are_told_in_a_line(override, message):
    with pytest.raises(UserError, match=re.escape(message)):
        compose_config([override])


def test_slurm_is_said_to_be_missing(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UserError, match="sinfo is not on the PATH"):
        compose_config(["cluster=slurm"])


def test_a_resumed_run_keeps_its_overrides(tmp_path):
    saved = ["variant@_global_=eplb_example", "cluster@_global_=local", "seed=3", "offline=true"]
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(saved))
    overrides = with_saved(["resume=run", "seed=4"])
    assert overrides == [
        "cluster=local",
        "seed=4",
        "offline=true",
        f"resume={tmp_path}/run",
    ]
    config = compose_config(overrides)
    assert config.output_dir == str(tmp_path / "run")


def test_an_override_needs_a_value():
    with pytest.raises(UserError, match="key=value"):
        with_saved(["offline"])


def test_slurm_paths_without_blanks(tmp_path):
    settings = {"job_type": "slurm_conda"}
    with pytest.raises(UserError, match="my results"):
        ready._check_paths(settings, tmp_path / "my results")
    ready._check_paths({"job_type": "local"}, tmp_path / "my results")


def test_settings_are_shinkas(tmp_path, monkeypatch):
    """Every setting is a field of ShinkaEvolve's own configuration."""
    config = compose_config([])
    settings = dict(config.evo_config)
    for ours in ("_target_", "_convert_", "requested_models", "seed", "num_islands"):
        settings.pop(ours)
    EvolutionConfig(**settings)


def test_project_files_are_found_in_the_source_tree_then_in_the_wheel(tmp_path, monkeypatch):
    wheel = tmp_path / "_task"
    wheel.mkdir()
    (wheel / "initial.py").touch()
    (wheel / "extra.py").touch()
    monkeypatch.setattr(common, "WHEEL_DATA", wheel)
    assert common.project_file("initial.py") == common.SOURCE_TREE / "initial.py"
    assert common.project_file("extra.py") == wheel / "extra.py"
    monkeypatch.setattr(common, "SOURCE_TREE", tmp_path)
    assert common.project_file("initial.py") == wheel / "initial.py"
    with pytest.raises(UserError, match="nosuch.json is missing"):
        common.project_file("nosuch.json")


def test_the_plugin_is_light():
    """Hydra imports it in every Hydra application of the environment."""
    import subprocess

    code = (
        "import sys, hydra_plugins.eplb_search_path\n"
        "assert not {'shinka', 'torch', 'numpy'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=common.SOURCE_TREE, check=True)


@pytest.mark.parametrize(
    "completed, next_generation, spent, done",
    [(7, 7, False, False), (7, 7, True, True), (9, 10, False, True), (10, 12, False, True)],
)
def test_a_run_is_done_when_its_budget_or_its_generations_are_used_up(
    completed, next_generation, spent, done
):
    """ShinkaEvolve stops at the cost so far plus what it expects of proposals on their way."""
    runner = SimpleNamespace(
        evo_config=SimpleNamespace(num_generations=10),
        completed_generations=completed,
        next_generation_to_submit=next_generation,
        cost_limit_reached=spent,
    )
    assert run._did_all(runner) == done

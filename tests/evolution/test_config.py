"""The configuration, as both entry points compose it: `pytest tests/evolution/test_config.py`."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import yaml
from hydra.utils import instantiate
from shinka.core import EvolutionConfig
from shinka.database import DatabaseConfig

from eplb import common
from eplb.common import UserError
from eplb.evaluation.scores import SCORINGS
from eplb.evolution.models import OFFLINE_MODEL
from eplb.evolution.settings import check_start_program, compose_config, with_saved
from eplb.trace import Trace, TraceHeader, write_trace

pytestmark = pytest.mark.usefixtures("no_keys")


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
    assert config.job_config.extra_cmd_args == {
        "locality": "require",
        "scoring": "eplb",
        "dispatch": "even",
        "hardware": "h200",
    }
    assert "This run uses the track: require" in config.evo_config.task_sys_msg
    assert config.seed == 7


def test_recommendations_come_from_a_model_that_answers_or_was_named():
    config = compose_config(["models=[gpt-5.4,gpt-5.5]"])
    config.evo_config.llm_models = ["gpt-5.5"]
    assert config.evo_config.meta_llm_models == ["gpt-5.5"]
    config = compose_config(["models=gpt-5.4", "evo_config.meta_llm_models=[gpt-5.5]"])
    config.evo_config.llm_models = ["gpt-5.4"]
    assert config.evo_config.meta_llm_models == ["gpt-5.5"]


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
    header = TraceHeader(
        num_groups=1, num_replicas=448, num_nodes=8, num_gpus=64, rebalance_interval=2
    )
    write_trace(path, Trace(np.ones((4, 3, 384), dtype=np.int64), header))
    asked = f"+distributed_job_config.extra_cmd_args.trace={path}"
    message = compose_config([asked]).evo_config.task_sys_msg
    assert "experts (384)" in message and "physical slots (448)" in message
    assert "256" not in message and "288" not in message
    assert "experts (384)" in compose_config([f"trace={path}"]).evo_config.task_sys_msg
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
        ("nosuch=1", "no setting nosuch; see configs/"),
        ("+nosuch=1", "no setting nosuch"),
        ("num_generations=4", "did you mean evo_config.num_generations?"),
        ("evo_config.num_generation=4", "did you mean evo_config.num_generations?"),
        ("+evo_config.max_cost=4", "did you mean evo_config.max_api_costs?"),
        ("db_config.islands=4", "did you mean db_config.num_islands?"),
        ("ofline=true", "did you mean offline?"),
        ("cluster=nosuch", "Could not find 'cluster/nosuch'"),
        ("evo_config.num_generations=[", "put it in quotes"),
        ("evo_config.num_generations=1.5", "should be a valid integer"),
        ("evo_config.num_generations=three", "should be a valid integer"),
        ("evo_config.num_generations=0", "should be greater than or equal to 1"),
        ("evo_config.num_generations=-1", "should be greater than or equal to 1"),
        ("evo_config.num_generations=null", "should be a valid integer"),
        ("evo_config.max_api_costs=lots", "should be a valid number"),
        ("evo_config.max_api_costs=0", "should be greater than 0"),
        ("evo_config.max_api_costs=-2", "should be greater than 0"),
        ("evo_config.max_api_costs=nan", "should be a finite number"),
        ("evo_config.use_text_feedback=perhaps", "should be a valid boolean"),
        ("evo_config.patch_types=[diff,magic]", "'diff', 'full' or 'cross'"),
        ("evo_config.patch_types=[]", "List should have at least 1 item"),
        ("evo_config.llm_kwargs.temperatures=[]", "List should have at least 1 item"),
        ("trace=nosuch.json", "nosuch.json does not exist"),
        ("offline=maybe", "should be a valid boolean"),
        ("seed=x", "should be a valid integer"),
        ("seed=-1", "should be greater than or equal to 0"),
        ("seed=true", "should be a valid integer"),
        ("seed=1,2", "one value each"),
        ("models=[]", "List should have at least 1 item"),
        ("models=", "should have at least 1 character"),
        ("models=true", "should be a valid string"),
        ("evo_config=5", "should be a valid dictionary"),
        ("scoring=nosuch", "'eplb'"),
        ("locality=maybe", "'report' or 'require'"),
        ("output_dir=", "should have at least 1 character"),
        ("max_proposal_jobs=0", "should be greater than or equal to 1"),
        ("db_config.num_islands=0", "should be greater than or equal to 1"),
        ("db_config.num_islands=two", "should be a valid integer"),
        ("db_config.migration_rate=2", "should be less than or equal to 1"),
        ("db_config.parent_selection_strategy=best", "'weighted'"),
        ("job_config.numeric_threads_per_job=many", "should be a valid integer"),
        ("resume=nosuch", "resume=nosuch: no run has its results there"),
        ("~seed", "key=value"),
        ("offline", "key=value"),
    ],
)
def test_mistakes_are_told_in_a_line(override, message):
    with pytest.raises(UserError, match=re.escape(message)) as mistake:
        compose_config([override])
    assert override in str(mistake.value)


@pytest.mark.parametrize(
    "word, meant",
    [("no", False), ("off", False), ("False", False), ("yes", True), ("on", True), ("true", True)],
)
def test_the_words_of_yaml_mean_what_they_say(word, meant, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    config = compose_config([f"offline={word}"])
    assert config.offline is meant
    assert (config.evo_config.llm_models == [OFFLINE_MODEL]) is meant


def test_what_shinka_has_and_the_example_does_not_set(tmp_path):
    config = compose_config(["evo_config.max_novelty_attempts=5", "+db_config.num_beams=7"])
    assert config.evo_config.max_novelty_attempts == 5 and config.db_config.num_beams == 7
    config = compose_config(["distributed_job_config.extra_cmd_args.repeats=1"])
    assert config.job_config.extra_cmd_args.repeats == 1
    assert compose_config(["job_config.time=30"]).job_config.time == "30"
    folder = compose_config(["evo_config.results_dir=here"]).evo_config.results_dir
    assert folder == f"{tmp_path}/here"


@pytest.mark.parametrize("name", ["my results", "a,b", "a=b", "it's", "a(b", "[x]", "$x"])
def test_paths_need_no_quotes_of_hydras(tmp_path, name):
    assert compose_config([f"output_dir={tmp_path}/{name}"]).output_dir == f"{tmp_path}/{name}"


def test_a_trace_is_one_override(tmp_path):
    assert "trace" not in compose_config([]).job_config.extra_cmd_args
    (tmp_path / "my traces").mkdir()
    shutil.copy(common.SOURCE_TREE / "expert-load.json", tmp_path / "my traces" / "load.json")
    config = compose_config(["trace=my traces/load.json"])
    assert config.job_config.extra_cmd_args.trace == f"{tmp_path}/my traces/load.json"


@pytest.mark.parametrize(
    "code, message",
    [
        (None, "No such file"),
        ("def f(:", "not Python"),
        ("x = 1\n", "no EVOLVE block"),
        ("# EVOLVE-BLOCK-END\n# EVOLVE-BLOCK-START\n", "no EVOLVE block"),
    ],
)
def test_a_start_program_that_cannot_be_changed(tmp_path, code, message):
    path = tmp_path / "start.py"
    if code is not None:
        path.write_text(code)
    with pytest.raises(UserError, match=message):
        check_start_program(path)


def test_start_programs(tmp_path):
    check_start_program(common.SOURCE_TREE / "initial.py")
    path = tmp_path / "mark.py"
    path.write_bytes(b"\xef\xbb\xbf" + (common.SOURCE_TREE / "initial.py").read_bytes())
    check_start_program(path)


def test_slurm_is_said_to_be_missing(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UserError, match="sinfo is not on the PATH"):
        compose_config(["cluster=slurm"])


def test_a_resumed_run_keeps_its_overrides(tmp_path):
    saved = ["variant@_global_=eplb_example", "cluster@_global_=local", "seed=3", "offline=true"]
    saved += ["output_dir=where/it/was", "results_dir=there"]
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


def test_settings_are_shinkas():
    """Every setting is a field of ShinkaEvolve's own configuration."""
    config = compose_config([])
    assert isinstance(instantiate(config.evo_config), EvolutionConfig)
    assert isinstance(instantiate(config.db_config), DatabaseConfig)

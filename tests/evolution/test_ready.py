"""What must be ready before ShinkaEvolve starts, and when a run is done.

Run it with `pytest tests/evolution/test_ready.py`.
"""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest

from eplb.common import UserError
from eplb.evolution import run
from eplb.evolution.settings import compose_config
from tests.evolution.model_server import ModelServer

pytestmark = pytest.mark.usefixtures("no_keys")


@pytest.mark.parametrize(
    "mistake", ["evo_config.num_generations=1.5", "nosuch=1", "evo_config.init_program_path=no.py"]
)
def test_mistakes_are_told_before_a_model_is_asked(tmp_path, mistake):
    with ModelServer() as server:
        with pytest.raises(UserError, match=re.escape(mistake)):
            run.run([f"models={server.model}", f"output_dir={tmp_path}/run", mistake])
        assert server.prompts == [] and not (tmp_path / "run").exists()


def test_slurm_paths_without_blanks(tmp_path):
    config = compose_config(["evo_config.job_type=slurm_conda"])
    with pytest.raises(UserError, match="my results"):
        run._check_files(config, tmp_path / "my results")
    run._check_files(compose_config([]), tmp_path / "my results")


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%20b"])
def test_folders_that_shinka_cannot_read_again(tmp_path, name):
    with pytest.raises(UserError, match="#, . or %"):
        run._check_files(compose_config([]), tmp_path / name)


def test_a_trace_is_read_before_the_run(tmp_path):
    with pytest.raises(UserError, match="nosuch.json does not exist"):
        run._check_files(compose_config(["trace=nosuch.json"]), tmp_path / "run")
    zero = {"load_history": [{"logical_expert_load": [[0, 0]]}] * 200}
    (tmp_path / "zero.json").write_text(json.dumps(zero))
    with pytest.raises(UserError, match="does not say which deployment"):
        run._check_files(compose_config(["trace=zero.json"]), tmp_path / "run")


def test_finished_and_damaged_runs_do_not_start(recorder, tmp_path):
    folder = recorder().folder
    run._check_files(compose_config([]), folder)  # killed before its first program
    done = recorder("done")
    done.add(1, done.add(0))
    with pytest.raises(UserError, match="2 generations.*num_generations=4"):
        run._check_files(compose_config(["evo_config.num_generations=2"]), done.folder)
    run._check_files(compose_config(["evo_config.num_generations=4"]), done.folder)
    (tmp_path / "programs.sqlite").write_bytes(b"not a database at all" * 400)
    with pytest.raises(UserError, match="not a database"):
        run._check_files(compose_config([]), tmp_path)


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

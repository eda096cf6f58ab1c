"""Whole runs: `pytest tests/evolution/test_run.py`."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from tests.evolution.model_server import KEY, ModelServer
from tests.evolution.runs import EVALUATOR, ROOT, Runs, wait_for


@pytest.fixture
def runs(tmp_path):
    with ModelServer() as server:
        yield Runs(tmp_path, server)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of twelve generations that has ended, and what it printed."""
    with ModelServer() as server:
        runs = Runs(tmp_path_factory.mktemp("finished"), server)
        process = runs.start(runs.overrides(12))
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out
        yield runs, out


def test_a_run_says_what_it_does_and_leaves_the_best_program(finished):
    runs, out = finished
    lines = out.splitlines()
    assert lines[:3] == [
        f"models: {runs.server.model}",
        "budget: $20.00",
        f"results: {runs.results}",
    ]
    assert re.fullmatch(
        r"12/12 generations  best 0\.\d{4}  cost \$0\.00  time left 00:00", lines[-5]
    )
    assert re.fullmatch(r"best on the known trace: gen_\d+, 0\.\d{4}", lines[-4])
    assert lines[-3] == f"what happened: python -m eplb.report {runs.results}"
    assert lines[-1].endswith(f"evaluate.py --program_path {runs.results}/best/main.py")
    runs.check_complete(12)
    check_islands_exchange(runs)
    # The model sees scores and programs, and never the key.
    assert any("Combined score" in prompt for prompt in runs.server.prompts)
    assert not any(KEY in prompt for prompt in runs.server.prompts)


def test_a_run_that_its_budget_ends(runs):
    """A model on loopback whose name has a price in ShinkaEvolve's list."""
    # One answer is dearer than the budget: ShinkaEvolve waits for a minute where it is but nearly
    # used up.
    runs.server.tokens = 30_000
    model = runs.server.model.replace("editor", "gpt-5.4-mini")
    settings = [f"models={model}", "evo_config.max_api_costs=0.1"]
    process = runs.start([*runs.overrides(50), *settings])
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 0, out
    lines = out.splitlines()
    assert lines[1] == "budget: $0.10"
    [words] = [line for line in lines if line.startswith("the budget")]
    told = re.fullmatch(
        r"the budget of \$0\.10 is used up after (\d+) of 50 generations, which cost \$(\d\.\d\d); "
        rf"for more: python \S*run_evo.py resume={runs.results} evo_config.max_api_costs=0.2",
        words,
    )
    assert told, words
    assert 1 < int(told[1]) < 50 and 0.05 < float(told[2]) < 2
    assert (runs.results / "best" / "main.py").exists()


def test_a_finished_run_is_resumed(finished):
    runs, _ = finished
    asked = len(runs.server.prompts)
    process = runs.launch([f"resume={runs.results}"])
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == (
        f"error: the run in {runs.results} is finished: it has its 12 generations; "
        f"for more of them add evo_config.num_generations=24\n"
    )
    assert len(runs.server.prompts) == asked
    runs.check_complete(12)


def check_islands_exchange(runs):
    """Programs migrated between the islands, or inspired one on the other island."""
    moves = [json.loads(row[0] or "[]") for row in runs.rows("migration_history")]
    ways = {(move["from"], move["to"]) for history in moves for move in history}
    assert ways & {(0, 1), (1, 0)}
    island = dict(runs.rows("id, island_idx"))
    inspired = runs.rows("island_idx, archive_inspiration_ids, top_k_inspiration_ids")
    assert any(
        island[other] != home
        for home, archive, top in inspired
        for other in json.loads(archive) + json.loads(top)
    )


def test_ctrl_c_ends_at_once_with_the_way_to_go_on(runs):
    process = runs.start(runs.overrides(50), EVALUATION_SECONDS="30")
    wait_for(lambda: (runs.results / "gen_0" / "results" / "job_log.out").exists(), process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert re.search(rf"interrupted; to go on: python \S*run_evo.py resume={runs.results}\n", out)
    assert "Traceback" not in out
    assert runs.orphans() == []


def test_killed_runs_go_on_without_losing_or_doubling_a_generation(runs):
    # More generations than can be done before the last kill.
    generations, seed = 10, random.randrange(1000)
    print(f"seed {seed}")
    draw = random.Random(seed)
    process = runs.start(runs.overrides(generations), EVALUATION_SECONDS="1.3")
    for seconds in ("1.3", "1.3", "0.1"):
        while not (line := process.stdout.readline()).startswith("results: "):
            assert process.poll() is None, line
        time.sleep(draw.uniform(0, 4))
        process.kill()
        process.wait()
        arguments = [f"resume={runs.results}"]
        process = runs.start(arguments, EVALUATION_SECONDS=seconds)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    runs.check_complete(generations)


def test_the_launcher_does_the_same(runs):
    process = runs.launch(runs.overrides(5), EVALUATION_SECONDS="0.5")
    wait_for(lambda: (runs.results / "gen_2").exists(), process)
    process.kill()
    process.communicate()
    process = runs.launch(runs.overrides(5))
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    lines = out.splitlines()
    assert lines[0].startswith("models: ") and len(lines) < 14, "as quiet as run_evo.py"
    assert (runs.results / "evolution_run.log").stat().st_size
    assert re.search(r"resuming after \d generations", out) or "1/5 generations" in out
    assert re.search(r"5/5 generations  best 0\.\d{4}", out)
    runs.check_complete(5)


@pytest.mark.parametrize(
    ("entry", "mistake"), [("start", "evo_config.init_program_path=no.py"), ("launch", "nosuch=1")]
)
def test_mistakes_cost_nothing(runs, entry, mistake):
    """One line, exit status 2, no model asked, no folder left: under both commands."""
    process = getattr(runs, entry)([*runs.overrides(5), mistake])
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out.startswith("error: ") and mistake in out and out.count("\n") == 1
    assert runs.server.prompts == [] and not runs.results.exists()


def test_useless_answers_end_the_run(runs):
    """ShinkaEvolve would ask on, nine times for every generation."""
    runs.server.says = "<NAME>\nno edit\n</NAME>"
    process = runs.start(runs.overrides(50))
    out, _ = process.communicate(timeout=120)
    last = out.splitlines()[-1]
    assert process.returncode == 1, out
    assert "<NAME> no edit </NAME>" in last
    assert "offline=true" in last and f"resume={runs.results}" in last


def test_a_start_program_that_is_refused(runs):
    """Its reason, and no way to go on: what was started is not worth going on with."""
    (runs.folder / "evaluate.py").write_text(
        EVALUATOR.replace("correct=True", "correct=False").replace(
            'text_feedback=""', 'text_feedback="slot 3 is 7"'
        )
    )
    process = runs.start(runs.overrides(5))
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1, out
    assert out.splitlines()[-1] == "the start program cannot be scored: slot 3 is 7"


def test_nobody_reads_what_the_run_says(runs):
    """`shinka_launch … | head -1`"""
    process = runs.launch(runs.overrides(50), errors=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(60) == 1
    assert re.fullmatch(r"cannot write to standard output \(Broken pipe\); to go on: .*\n", errors)
    assert runs.orphans() == []


def test_standard_output_is_full(runs):
    with open("/dev/full", "w") as full:
        process = runs.start(runs.overrides(50), out=full, errors=subprocess.PIPE)
        errors = process.stderr.read()
    assert process.wait(60) == 1
    assert errors.count("\n") == 1 and "No space left on device" in errors, errors


def test_the_disk_is_full(runs):
    """A file system that is nearly full as the run starts, in a user's own mount namespace."""
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("this user may not mount")
    runs.results.mkdir()
    mount = f"mount -t tmpfs -o size=9m tmpfs {runs.results}"
    run = shlex.join([sys.executable, str(ROOT / "run_evo.py"), *runs.overrides(50)])
    shell = ["unshare", "-m", "sh", "-c", f"{mount} && exec {run}"]
    environment = {**os.environ, "LOCAL_OPENAI_API_KEY": KEY}
    ended = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1, ended
    assert ended.stderr.count("\n") == 1 and "is full; to go on: " in ended.stderr, ended.stderr

"""Runs through a real Slurm: `apt-get install slurm-wlm munge; pytest tests/evolution/slurm`.

Skipped where Slurm is not installed, unless EPLB_REQUIRE_SLURM is set.
"""

from __future__ import annotations

import os
import re
import signal

import pytest

from tests.evolution.model_server import ModelServer
from tests.evolution.runs import EVALUATOR, Runs, wait_for
from tests.evolution.slurm.cluster import Cluster, missing_programs

# Generations that never finish by themselves.
OVERDUE, CANCELLED, LOST = 1, 2, 3
HANGING_EVALUATOR = f"""
import re, sys, time
generation = int(re.search(r"gen_(\\d+)/main", " ".join(sys.argv))[1])
if generation in ({OVERDUE}, {CANCELLED}, {LOST}):
    print("hanging", flush=True)
    time.sleep(600)
{EVALUATOR}
"""


@pytest.fixture(scope="module")
def cluster():
    missing = missing_programs()
    if missing and not os.environ.get("EPLB_REQUIRE_SLURM"):
        pytest.skip(f"no Slurm: {', '.join(missing)} not installed")
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def runs(tmp_path):
    with ModelServer() as server:
        yield Runs(tmp_path, server)


def hangs(runs, generation):
    """Whether the generation's job has begun its endless work."""
    log = runs.results / f"gen_{generation}" / "results" / "job_log.out"
    return lambda: log.exists() and "hanging" in log.read_text()


def job_of(cluster, generation):
    """The number of the job that evaluates the generation, empty when there is none."""
    for line in cluster.run("squeue", "-h", "-O", "JobID:10,STDOUT:500").splitlines():
        number, log = line.split()
        if f"/gen_{generation}/" in log:
            return number
    return ""


def test_failed_jobs_are_failed_evaluations_and_the_run_goes_on(cluster, runs):
    (runs.folder / "evaluate.py").write_text(HANGING_EVALUATOR)
    process = runs.start([*runs.overrides(6), "cluster=slurm"], **cluster.environment)
    wait_for(hangs(runs, OVERDUE), process)
    # Its time limit ends it now, as in an hour; Slurm's shortest is a minute.
    overdue = job_of(cluster, OVERDUE)
    assert cluster.run("squeue", "-h", "-j", overdue, "-o", "%l") == "1:00:00"
    cluster.run("scontrol", "update", f"jobid={overdue}", "endtime=now")
    wait_for(hangs(runs, CANCELLED), process)
    cluster.run("scancel", job_of(cluster, CANCELLED))
    wait_for(hangs(runs, LOST), process)
    cluster.wait(lambda: not job_of(cluster, OVERDUE))
    assert "JobState=TIMEOUT" in cluster.run("scontrol", "show", "job", overdue)
    cluster.lose_node()
    cluster.wait(lambda: not job_of(cluster, LOST))
    cluster.start_node()
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 0, out
    correct = dict(runs.rows("generation, correct"))
    assert correct == {g: g not in (CANCELLED, OVERDUE, LOST) for g in range(6)}
    scores = dict(runs.rows("generation, combined_score"))
    assert scores[CANCELLED] == scores[OVERDUE] == scores[LOST] == 0.0


def test_ctrl_c_cancels_the_jobs_and_the_launcher_goes_on(cluster, runs):
    overrides = [*runs.overrides(3), "cluster=slurm"]
    process = runs.start(overrides, EVALUATION_SECONDS="600", **cluster.environment)
    wait_for(lambda: job_of(cluster, 0), process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.search(r"interrupted; to go on: ", out)
    cluster.wait(lambda: not job_of(cluster, 0))
    process = runs.launch(overrides, **cluster.environment)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 0, out
    runs.check_complete(3)

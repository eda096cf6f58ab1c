"""Starts real runs with an evaluator that takes no time and models on loopback."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import psutil

from tests.evolution.model_server import KEY, ModelServer

ROOT = Path(__file__).resolve().parents[2]

EVALUATOR = """
import argparse, hashlib, json, os, time
parser = argparse.ArgumentParser()
for name in (
    "--program_path", "--results_dir", "--locality", "--scoring", "--dispatch", "--hardware"
):
    parser.add_argument(name)
arguments = parser.parse_args()
time.sleep(float(os.environ.get("EVALUATION_SECONDS", "0.1")))
code = open(arguments.program_path, "rb").read()
score = 0.2 + hashlib.sha256(code).digest()[0] / 1000
metrics = dict(
    combined_score=score, public={}, private={}, text_feedback="", execution_time_mean=0.1,
    execution_time_std=0.0, num_valid_runs=1, num_invalid_runs=0, all_validation_errors=[],
)
for name, content in (("metrics", metrics), ("correct", dict(correct=True, error=""))):
    with open(f"{arguments.results_dir}/{name}.json", "w") as file:
        json.dump(content, file)
"""


def wait_for(condition, process, seconds: float = 60) -> None:
    """Wait until the condition holds while the process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.02)


class Runs:
    """Runs that write into ``folder``/run, proposed by ``server``."""

    def __init__(self, folder: Path, server: ModelServer) -> None:
        self.folder, self.server = folder, server
        self.results = folder / "run"
        (folder / "evaluate.py").write_text(EVALUATOR)

    def overrides(self, generations: int) -> list[str]:
        return [
            f"models={self.server.model}",
            f"output_dir={self.results}",
            f"evo_config.num_generations={generations}",
            "confirm=false",
            f"distributed_job_config.eval_program_path={self.folder}/evaluate.py",
        ]

    def start(self, arguments: list[str], **environment: Any) -> subprocess.Popen:
        """Start `run_evo.py` from another folder than the project's."""
        return self.start_command([str(ROOT / "run_evo.py"), *arguments], **environment)

    def launch(self, arguments: list[str], **environment: Any) -> subprocess.Popen:
        """Start `shinka_launch variant=eplb_example` from another folder than the project's."""
        code = (
            "import sys; sys.argv[0] = 'shinka_launch'\nfrom shinka.cli.launch import main; main()"
        )
        arguments = ["-c", code, "variant=eplb_example", *arguments]
        return self.start_command(arguments, PYTHONPATH=str(ROOT), **environment)

    def start_command(
        self,
        arguments: list[str],
        out: int | IO = subprocess.PIPE,
        errors: int = subprocess.STDOUT,
        **environment: str,
    ) -> subprocess.Popen:
        environment = {**os.environ, "LOCAL_OPENAI_API_KEY": KEY, **environment}
        environment["PYTHONUNBUFFERED"] = "1"
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            stdout=out,
            stderr=errors,
            text=True,
        )

    def rows(self, columns: str) -> list[tuple]:
        """Columns of all programs, by generation."""
        with closing(sqlite3.connect(self.results / "programs.sqlite")) as database:
            query = f"SELECT {columns} FROM programs ORDER BY generation"
            return database.execute(query).fetchall()

    def check_complete(self, generations: int) -> None:
        """Every generation is there once, with its folder, its program and its result."""
        rows = self.rows("generation, code, correct, metadata")
        assert [row[0] for row in rows] == [0, *range(generations)]  # the seed on two islands
        folders = sorted(int(path.name[4:]) for path in self.results.glob("gen_*"))
        assert folders == list(range(generations))
        for generation, code, correct, metadata in rows:
            assert (self.results / f"gen_{generation}" / "main.py").read_text() == code
            assert correct
            assert not json.loads(metadata).get("results_missing")
        ids = [json.loads(row[3]).get("source_job_id") for row in rows[2:]]
        assert len(set(ids)) == len(ids)
        best = (self.results / "best" / "main.py").read_text()
        assert best == self.rows("code, max(combined_score)")[0][0]

    def orphans(self) -> list[list[str]]:
        """Command lines of processes that still work on the results."""
        commands = []
        for process in psutil.process_iter():
            try:
                commands.append(process.cmdline())
            except psutil.Error:
                pass
        return [
            command for command in commands if any(str(self.results) in word for word in command)
        ]

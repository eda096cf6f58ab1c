"""Results folders made by ShinkaEvolve's own code, without a run."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SEED_CODE = """import torch

# EVOLVE-BLOCK-START
STEPS = 0


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    return STEPS


# EVOLVE-BLOCK-END
"""


class Recorder:
    """Writes a results folder through ShinkaEvolve's database, as a run would."""

    def __init__(self, folder: Path, num_islands: int = 2, **config) -> None:
        from shinka.database import DatabaseConfig, ProgramDatabase

        self.folder = folder
        path = str(folder / "programs.sqlite")
        config = {"migration_interval": 4, "migration_rate": 0.3} | config
        self.database = ProgramDatabase(
            DatabaseConfig(db_path=path, num_islands=num_islands, **config), embedding_model=""
        )
        self.programs = []

    def add(self, generation: int, parent=None, **fields):
        """Add a program, correct unless its fields say otherwise; migrate when it is time."""
        from shinka.database import Program

        metadata = {"patch_name": f"edit {generation}", "patch_type": "diff"}
        metadata |= fields.pop("metadata", {})
        fields = {
            "code": SEED_CODE.replace("STEPS = 0", f"STEPS = {generation}"),
            "correct": True,
            "combined_score": 0.0,
        } | fields
        program = Program(
            id=fields.pop("id", f"id-{len(self.programs)}"),
            parent_id=parent.id if parent else None,
            generation=generation,
            metadata=metadata,
            **fields,
        )
        self.database.add(program)
        self.database.check_scheduled_operations()
        self.programs.append(program)
        return program

    def close(self) -> None:
        self.database.close()


def write_failure(folder: Path, generation: int, error: str) -> None:
    """What an evaluation that fails leaves in its generation's folder."""
    results = folder / f"gen_{generation}" / "results"
    results.mkdir(parents=True)
    (results / "correct.json").write_text(json.dumps({"correct": False, "error": error}))


def write_attempt(folder: Path, generation: int, error: str | None) -> None:
    """What ShinkaEvolve leaves of one answer of a model."""
    path = folder / f"gen_{generation}/attempts/novelty_1/resample_1/patch_1/metadata.json"
    path.parent.mkdir(parents=True)
    attempt = {"generation": generation, "success": error is None, "error_msg": error}
    path.write_text(json.dumps(attempt))


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Callable[..., Recorder]]:
    """Call it for a `Recorder` on a new results folder; closed at the end of the test."""
    opened = []

    def open_recorder(name: str = "run", **config) -> Recorder:
        folder = tmp_path / name
        folder.mkdir()
        opened.append(Recorder(folder, **config))
        return opened[-1]

    yield open_recorder
    for each in opened:
        each.close()


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of 30 generations on two islands that migrate, with all kinds in it."""
    folder = tmp_path_factory.mktemp("results") / "finished run"
    folder.mkdir()
    recorder = Recorder(folder)
    rng = random.Random(0)
    seed = recorder.add(
        0,
        code=SEED_CODE,
        combined_score=0.4,
        public_metrics={"balancedness_score": 0.79, "call_ms": 400.0},
        metadata={"patch_name": "initial_program", "patch_type": "init", "api_costs": 0.0},
    )
    by_island = {0: [seed], 1: [seed]}
    for generation in range(1, 31):
        correct = generation % 7 != 3
        island = generation % 2
        parent = recorder.database.get(rng.choice(by_island[island]).id)
        time_ms = 400 / (1 + generation * rng.random())
        balance = 0.79 + 0.2 * rng.random()
        score = (balance + 1 / (1 + time_ms / 4)) / 2 if correct else 0.0
        other = rng.choice(recorder.programs)
        program = recorder.add(
            generation,
            parent,
            correct=correct,
            combined_score=score,
            public_metrics={"balancedness_score": balance, "call_ms": time_ms} if correct else {},
            text_feedback="" if correct else "Rejected.\nMore about it.",
            archive_inspiration_ids=[other.id],
            metadata={
                "model_name": f"model-{generation % 3}",
                "patch_description": f"Changes step {generation}.",
                "api_costs": 0.01,
                "novelty_cost": 0.001,
                "embed_cost": None,
                "pipeline_started_at": time.time(),
                "evaluation_seconds": 0.5,
                "llm_result": {"input_tokens": 1000, "output_tokens": 100},
            },
        )
        if correct:
            by_island[program.island_idx].append(program)
        else:
            write_failure(folder, generation, f"logcnt: layer {generation}, expert 7 claims 2")
    recorder.database.record_attempt_event(
        31,
        "proposal",
        "failed",
        {"failure_reason": "SEARCH text not found", "model_name": "model-1", "api_costs": 0.5},
    )
    write_attempt(folder, 31, "SEARCH text not found")
    write_attempt(folder, 30, None)
    recorder.close()
    return folder

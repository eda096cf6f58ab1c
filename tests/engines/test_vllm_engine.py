"""Our plug-in in vLLM's own EPLB state, on CPU: the weights are where the maps say.

In an environment with vllm 0.33.0 and this project (no GPU is needed, nor vllm's compiled parts):

    python -m pytest tests/engines/test_vllm_engine.py -q
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eplb.common import project_file
from eplb.engines import registry
from eplb.trace import read_trace
from tests.engines import vllm_on_cpu as run
from tests.strategies import random_phy2log

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="vllm is not installed; its EPLB state is only run where it is",
)


def serve(folder: Path, **variables: str) -> tuple[list[dict], str]:
    """What each rank wrote of a run with these variables set, and what all of them logged."""
    record = folder / "record"
    environment = os.environ | variables | {"EPLB_VLLM_RECORD": str(record)}
    done = subprocess.run(
        [sys.executable, "-m", run.__name__, str(folder)],
        env=environment,
        cwd=project_file("evaluate.py").parent,
        capture_output=True,
        text=True,
    )
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(run.RANKS)]
    for name in ("target", "draft"):
        steps = [rank[name] for rank in ranks]
        assert all(step["weights_match"] for rank in steps for step in rank), log
        placements = [[step["placement"] for step in rank] for rank in steps]
        assert all(placement == placements[0] for placement in placements)
        assert len(placements[0]) == run.REARRANGEMENTS
    check_recording(record, ranks[0])
    return ranks, log


def check_recording(folder: Path, rank: dict) -> None:
    """Every window that vLLM summed, once, without the profiling call, for each model."""
    for name, layers in (("target", run.TARGET_LAYERS), ("draft", run.DRAFT_LAYERS)):
        loads = [step["load"] for step in rank[name]]
        file = folder / f"load_{layers}x{run.EXPERTS}.jsonl"
        assert np.array_equal(read_trace(file).loads, loads)
    statistics = registry.read_statistics(folder)
    assert np.array_equal(statistics.loads, [step["load"] for step in rank["target"]])
    assert statistics.header.num_gpus == run.RANKS


def test_a_program_moves_the_weights_of_both_models(tmp_path):
    ranks, log = serve(tmp_path, EPLB_VLLM_PROGRAM=str(project_file("initial.py")))
    for name in ("target", "draft"):
        first, *later = [step["placement"] for step in ranks[0][name]]
        assert first not in later
    assert f"model of {run.TARGET_LAYERS} layers: kept " in log


def test_a_placement_holds_and_the_draft_model_is_left_to_vllm(tmp_path):
    plan = random_phy2log(0, run.TARGET_LAYERS, run.SLOTS, run.EXPERTS)
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"physical_to_logical_map": plan.tolist()}))
    ranks, log = serve(tmp_path, EPLB_VLLM_PLACEMENT=str(file))
    by_rank = (run.TARGET_LAYERS, run.RANKS, -1)
    for step in ranks[0]["target"]:
        placed = np.reshape(step["placement"], by_rank)
        assert np.array_equal(np.sort(placed), np.sort(plan.reshape(by_rank)))
    assert f"{file} places {run.TARGET_LAYERS} layers, the model has 1" in log
    draft = [step["placement"] for step in ranks[0]["draft"]]
    assert draft[0] != draft[1]

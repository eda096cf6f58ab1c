"""Evaluations made by hand, for tests of what follows a measurement."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eplb import reference
from eplb.evaluation.measure import Evaluation, ProgramRun, Settings
from eplb.evaluation.scores import score_placements
from eplb.placement import Deployment, ExpertPlacement
from eplb.trace import History
from tests.strategies import random_loads

DEPLOYMENT = Deployment(num_replicas=32, num_groups=4, num_nodes=2, num_gpus=8)


def history_of(records: np.ndarray) -> History:
    """records: [windows, records per window, layers, experts]"""
    return History(records, records.sum(axis=1))


def random_history(seed: int, windows=5, records=3, layers=4, experts=24) -> History:
    return history_of(random_loads(seed, windows, records, layers, experts))


def steady_history(seed: int, windows=5, layers=4, experts=24) -> History:
    """Every window is like the first: a forecast loses nothing."""
    loads = random_loads(seed, 1, 1, layers, experts)
    return history_of(np.repeat(loads, windows, axis=0))


def run_of(phy2logs, history: History, deployment=DEPLOYMENT, seconds=0.002, stages=None):
    placements = [ExpertPlacement.from_phy2log(p, history.windows.shape[2]) for p in phy2logs]
    scores = score_placements(placements, history, deployment)
    times = np.full(len(placements), seconds)
    return ProgramRun([], placements, scores, times, stages or {})


def reference_run(history: History, deployment=DEPLOYMENT, **kwargs) -> ProgramRun:
    """The reference balancer's placements, free of nodes."""
    phy2logs = [
        reference.place(load, deployment.num_replicas, deployment.num_gpus) for load in history.seen
    ]
    return run_of(phy2logs, history, deployment, **kwargs)


def evaluation_of(runs, history: History, deployment=DEPLOYMENT, **kwargs) -> Evaluation:
    values = {
        "settings": Settings(Path("program.py"), Path("trace.json"), deployment),
        "history": history,
        "isolation": "none, in a test",
        "seed_seconds": np.array([[0.9, 0.2], [0.8, 0.2], [0.9, 0.2]]),
        "seed_scores": None,
        "runs": runs,
    }
    return Evaluation(**{**values, **kwargs})

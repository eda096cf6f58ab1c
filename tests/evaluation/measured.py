"""Evaluations made by hand, for tests of what follows a measurement."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eplb import reference
from eplb.evaluation.measure import Criteria, Evaluation, ProgramRun, Settings
from eplb.evaluation.scores import PlacementScores
from eplb.placement import Deployment, ExpertPlacement
from eplb.sandbox.runner import Refused
from eplb.trace import History
from tests.strategies import random_loads

DEPLOYMENT = Deployment(num_replicas=32, num_groups=4, num_nodes=2, num_gpus=8)


def history_of(records: np.ndarray) -> History:
    """records: [windows, records per window, layers, experts]"""
    return History(records)


def random_history(seed: int, windows=5, records=3, layers=4, experts=24) -> History:
    return history_of(random_loads(seed, windows, records, layers, experts))


def steady_history(seed: int, windows=5, layers=4, experts=24) -> History:
    """Every window is like the first: a forecast loses nothing."""
    loads = random_loads(seed, 1, 1, layers, experts)
    return history_of(np.repeat(loads, windows, axis=0))


def scores_of(phy2logs, history: History, deployment=DEPLOYMENT) -> PlacementScores:
    placements = [ExpertPlacement.from_phy2log(p, history.windows.shape[2]) for p in phy2logs]
    return PlacementScores(placements, history, deployment)


def reference_scores(history: History, deployment=DEPLOYMENT) -> PlacementScores:
    """The reference balancer's placements, free of nodes."""
    phy2logs = [
        reference.place(load, deployment.num_replicas, deployment.num_gpus) for load in history.seen
    ]
    return scores_of(phy2logs, history, deployment)


def evaluation_of(
    scores: PlacementScores, seconds=(0.002,), scoring="eplb", **kwargs
) -> Evaluation:
    """An evaluation of placements that took ``seconds`` a call in each repeat, the seed 0.2 s."""
    paths, criteria = (Path("program.py"), Path("trace.json")), Criteria(scoring=scoring)
    times = np.repeat(np.array(seconds)[:, None], len(scores.placements), axis=1)
    values = {
        "settings": Settings(*paths, repeats=len(seconds), criteria=criteria),
        "deployment": scores.deployment,
        "history": scores.history,
        "isolation": "none, in a test",
        "run": ProgramRun(scores.placements, times, np.array([[0.9, 0.2]] * len(seconds))),
        "scores": scores,
    }
    return Evaluation(**{**values, **kwargs})


def refused(history: History, reason: Refused) -> Evaluation:
    settings = Settings(Path("program.py"), Path("trace.json"))
    return Evaluation(settings, DEPLOYMENT, history, "none, in a test", refusal=reason)

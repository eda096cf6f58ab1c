"""What programs are judged by: their placements on windows, and the reference's beside."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch

from eplb import reference
from eplb.loads import balancedness, gpu_loads
from eplb.placement import Deployment, ExpertPlacement, validate
from eplb.throughput.dispatch import gpu_loads as dispatched

PROJECT = Path(__file__).parents[2]
PROGRAMS = sorted(PROJECT.glob("programs/*.py"))
by_name = {path.stem: path for path in (*PROGRAMS, PROJECT / "initial.py")}
V3 = Deployment(288, 8, 4, 32)


def fresh(name: str):
    """The program as a new process would load it: with no history."""
    spec = importlib.util.spec_from_file_location(f"program_{name}", by_name[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run_eplb


def answer(run_eplb, window: np.ndarray, deployment: Deployment, local: bool = False):
    """The validated placement for ``window`` [layers, experts]."""
    weight = torch.from_numpy(window.astype(np.float32))
    before = weight.clone()
    d = deployment
    maps = run_eplb(weight, d.num_replicas, d.num_groups, d.num_nodes, d.num_gpus)
    assert torch.equal(weight, before), "the program changed its input"
    layers, experts = window.shape
    arrays = [each.numpy() for each in maps]
    return validate(
        *arrays,
        num_layers=layers,
        num_experts=experts,
        deployment=deployment,
        require_locality=local,
    )


def drifting(windows: int, seed: int, noise: float, change: int | None = None, layers: int = 8):
    """[windows, layers, 256] int64: log-normal loads with noise; another popularity at change."""
    rng = np.random.default_rng(seed)
    popularity = rng.normal(scale=0.7, size=(layers, 256))
    result = []
    for window in range(windows):
        if window == change:
            popularity = rng.normal(scale=0.7, size=(layers, 256))
        log_load = popularity + rng.normal(scale=noise, size=(layers, 256))
        result.append(np.rint(2000 * np.exp(log_load)).astype(np.int64))
    return np.array(result)


def next_window(
    name: str, windows: np.ndarray, deployment: Deployment = V3, rule: str = "even"
) -> np.ndarray:
    """[windows - 1]: balancedness of each placement on the window that followed."""
    run_eplb = fresh(name)
    return np.array(
        [
            balancedness(dispatched(after, answer(run_eplb, seen, deployment), deployment, rule))
            for seen, after in zip(windows[:-1], windows[1:], strict=True)
        ]
    )


def reference_balancedness(windows: np.ndarray, deployment: Deployment) -> float:
    """Greedy replication + LPT, each replica to the lightest GPU, on the window seen."""
    scores = []
    for window in windows:
        phy2log = reference.place(window, deployment.num_replicas, deployment.num_gpus)
        placement = ExpertPlacement.from_phy2log(phy2log, window.shape[1])
        scores.append(balancedness(gpu_loads(window, placement, deployment.num_gpus)))
    return float(np.mean(scores))


def same_window(name: str, windows: np.ndarray, deployment: Deployment) -> float:
    scores = []
    for window in windows:
        placement = answer(fresh(name), window, deployment)
        scores.append(balancedness(gpu_loads(window, placement, deployment.num_gpus)))
    return float(np.mean(scores))


def last_window(windows: np.ndarray, deployment: Deployment = V3) -> np.ndarray:
    """[windows - 1]: `next_window` of greedy replication + LPT on each window alone."""
    scores = []
    for seen, after in zip(windows[:-1], windows[1:], strict=True):
        phy2log = reference.place(seen, deployment.num_replicas, deployment.num_gpus)
        placement = ExpertPlacement.from_phy2log(phy2log, seen.shape[1])
        scores.append(balancedness(gpu_loads(after, placement, deployment.num_gpus)))
    return np.array(scores)

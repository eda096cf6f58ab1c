"""What programs are judged by: their placements on windows, and the reference's beside."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

from eplb import reference
from eplb.loads import balancedness
from eplb.placement import Deployment, ExpertPlacement, validate
from eplb.throughput.dispatch import gpu_loads

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


def swung(loads: np.ndarray, seed: int, scale: float = 0.4) -> np.ndarray:
    """``loads`` whose 8 groups rise and fall as wholes in each window, which nobody can foresee."""
    swing = np.random.default_rng(seed).normal(scale=scale, size=(*loads.shape[:2], 8))
    return np.rint(loads * np.exp(swing).repeat(loads.shape[2] // 8, axis=2)).astype(np.int64)


def swinging(windows: int, seed: int, change: int | None = None) -> np.ndarray:
    """`drifting` loads of 24 layers, `swung`."""
    return swung(drifting(windows, seed=seed, noise=0.1, change=change, layers=24), seed)


def next_window(
    name: str, windows: np.ndarray, deployment: Deployment = V3, rule: str = "even"
) -> np.ndarray:
    """[windows - 1]: balancedness of each placement on the window that followed."""
    run_eplb = fresh(name)
    placements = [answer(run_eplb, window, deployment) for window in windows[:-1]]
    return judged(placements, windows[1:], deployment, rule)


def same_window(
    name: str, windows: np.ndarray, deployment: Deployment, rule: str = "even"
) -> float:
    """Mean balancedness on each window, placed alone, by a program without history."""
    placements = [answer(fresh(name), window, deployment) for window in windows]
    return float(judged(placements, windows, deployment, rule).mean())


def reference_balancedness(
    windows: np.ndarray, deployment: Deployment, rule: str = "even"
) -> float:
    """`same_window` of greedy replication + LPT, each replica to the lightest GPU."""
    return float(judged(greedy(windows, deployment), windows, deployment, rule).mean())


def last_window(windows: np.ndarray, deployment: Deployment = V3) -> np.ndarray:
    """[windows - 1]: `next_window` of greedy replication + LPT on each window alone."""
    return judged(greedy(windows[:-1], deployment), windows[1:], deployment, "even")


def greedy(windows: np.ndarray, deployment: Deployment) -> list[ExpertPlacement]:
    """The reference's placement of each window [layers, experts]."""
    experts, sizes = windows.shape[2], (deployment.num_replicas, deployment.num_gpus)
    slots = (reference.place(window, *sizes) for window in windows)
    return [ExpertPlacement.from_phy2log(each, experts) for each in slots]


def judged(
    placements: list[ExpertPlacement], windows: np.ndarray, deployment: Deployment, rule: str
) -> np.ndarray:
    """[windows] balancedness of each placement on its window, under a dispatch rule."""
    pairs = zip(windows, placements, strict=True)
    return np.array([balancedness(gpu_loads(*pair, deployment, rule)) for pair in pairs])


@st.composite
def skewed(draw, most: float):
    """(load [1, 16, experts], deployment) with a skew up to ``most`` and 0 to 8 spare slots a GPU.

    A layer of few experts may be unlucky, so there are 16 to take the mean of.
    """
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    gpus = draw(st.integers(2, 24))
    experts = gpus * draw(st.integers(1, 9))
    deployment = Deployment(experts + gpus * draw(st.integers(0, 8)), 1, 1, gpus)
    normal = rng.normal(scale=draw(st.floats(0.1, most)), size=(1, 16, experts))
    return np.rint(1000 * np.exp(normal)).astype(np.int64), deployment

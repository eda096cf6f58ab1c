"""`programs/joint.py`: the best of all counts, or close to it."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from eplb.loads import gpu_loads
from eplb.placement import Deployment
from tests.programs.judging import answer, fresh


def hottest_gpu(name: str, load: list[int], deployment: Deployment) -> float:
    window = np.array([load])
    placement = answer(fresh(name), window, deployment)
    return float(gpu_loads(window, placement, deployment.num_gpus).max())


def test_joint_finds_the_best_replication_for_a_packing():
    """The least of all counts, enumerated; greedy replication and LPT have 232."""
    load = [600, 560, 120, 120, 20, 10, 10, 10]
    assert hottest_gpu("joint", load, Deployment(16, 1, 1, 8)) == pytest.approx(590 / 3)


def test_joint_is_close_to_the_best_of_all_counts():
    """Two slots a GPU, where to pair the heaviest with the lightest is the best packing."""
    slots, experts, gpus = 12, 6, 6
    counts = np.array(
        [np.diff((0, *cut, slots)) for cut in combinations(range(1, slots), experts - 1)]
    )
    rng = np.random.default_rng(17)
    over = []
    for skew in np.linspace(0.5, 2, 12):
        load = np.rint(1000 * np.exp(rng.normal(scale=skew, size=experts))).astype(np.int64) + 1
        replica = np.repeat(np.tile(load, len(counts)) / counts.ravel(), counts.ravel())
        replica = np.sort(replica.reshape(-1, slots), axis=1)
        best = (replica[:, :gpus] + replica[:, : gpus - 1 : -1]).max(axis=1).min()
        over.append(hottest_gpu("joint", load.tolist(), Deployment(slots, 1, 1, gpus)) / best)
    assert min(over) >= 1 - 1e-6
    assert np.mean(over) <= 1.02

"""Random deployments, loads and placements for property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from eplb.placement import Deployment


@st.composite
def deployments(draw, node_local: bool | None = None) -> tuple[Deployment, int]:
    """A small deployment that keeps every rule, with a number of experts for it.

    node_local: whether the nodes must (True) or must not (False) divide the groups
    """
    nodes = draw(st.integers(2 if node_local is False else 1, 4))
    gpus = nodes * draw(st.integers(1, 3))
    if node_local is True:
        groups = nodes * draw(st.integers(1, 3))
    elif node_local is False:
        groups = draw(st.integers(1, 7).filter(lambda g: g % nodes))
    else:
        groups = draw(st.integers(1, 6))
    experts = groups * draw(st.integers(1, 4))
    slots_per_gpu = -(-experts // gpus) + draw(st.integers(0, 3))
    return Deployment(gpus * slots_per_gpu, groups, nodes, gpus), experts


def random_loads(seed: int, *shape: int) -> np.ndarray:
    """Skewed token counts; about one expert in five gets nothing."""
    rng = np.random.default_rng(seed)
    loads = np.exp(rng.normal(3, 1.5, size=shape)).astype(np.int64)
    loads[rng.random(shape) < 0.2] = 0
    return loads


def random_phy2log(seed: int, layers: int, slots: int, experts: int) -> np.ndarray:
    """[layers, slots]: every expert at least once, the rest at random, shuffled."""
    rng = np.random.default_rng(seed)
    every = np.tile(np.arange(experts), (layers, 1))
    spare = rng.integers(0, experts, size=(layers, slots - experts))
    return rng.permuted(np.concatenate([every, spare], axis=1), axis=1)


seeds = st.integers(0, 2**32 - 1)


def replica_loads(load: np.ndarray, count: np.ndarray) -> np.ndarray:
    """[rows, slots] float64: the load of every replica; each row of ``count`` sums to ``slots``."""
    per_replica = load / np.maximum(count, 1)
    return np.repeat(per_replica.ravel(), count.ravel()).reshape(len(load), -1)

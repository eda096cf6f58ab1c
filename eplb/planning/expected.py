"""The load to plan on: what a recording says of the traffic to come, and how programs are shown it.

Not covered: planning itself (`eplb.planning.planner`).
"""

from __future__ import annotations

import numpy as np

# Candidate memories, as shares of the recording after which an iteration counts half.
HALF_LIVES = (np.inf, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)
WINDOWS = 20  # of history, before the window that holds everything


def expected_load(loads: np.ndarray) -> np.ndarray:
    """The load to plan on, [layers, experts] int64, from ``loads`` [iterations, layers, experts].

    A sum over all iterations in which older ones count less. How much less is learned from the
    recording itself: of `HALF_LIVES` the one wins whose sum over a first part would have told the
    experts' shares of the rest best (least absolute error, first parts of a half and three
    quarters). Steady traffic so gets the plain sum, which has the least noise, and drifting
    traffic a short memory. The sum is scaled to the tokens that were counted.
    """
    iterations = len(loads)
    half_lives = [share * iterations for share in HALF_LIVES]
    if iterations >= 8:
        origins = (iterations // 2, 3 * iterations // 4)
        half_life = min(half_lives, key=lambda life: sum(_error(loads, o, life) for o in origins))
    else:
        half_life = np.inf
    load = _weighted_sum(loads, half_life)
    return np.rint(load * (loads.sum() / (load.sum() or 1.0))).astype(np.int64)


def _weighted_sum(loads: np.ndarray, half_life: float) -> np.ndarray:
    """[layers, experts]: sum over iterations, each half the weight of one ``half_life`` later."""
    age = np.arange(len(loads) - 1, -1, -1)
    return np.einsum("i,ile->le", 0.5 ** (age / half_life), loads)


def _error(loads: np.ndarray, origin: int, half_life: float) -> float:
    """How far the shares predicted at iteration ``origin`` are from those of the rest."""
    predicted = _shares(_weighted_sum(loads[:origin], half_life))
    return float(np.abs(predicted - _shares(loads[origin:].sum(axis=0))).sum())


def _shares(load: np.ndarray) -> np.ndarray:
    return load / np.maximum(load.sum(axis=-1, keepdims=True), 1)


def windows_to_show(loads: np.ndarray) -> np.ndarray:
    """What a program sees of ``loads`` [iterations, layers, experts]: [windows, layers, experts].

    The recording in up to `WINDOWS` parts, in order, as history for programs that forecast; then,
    as the last window, the `expected_load` in the size of a part, so that a program which believes
    its last window plans on everything known as well. On nine synthetic workloads, steady and
    drifting, programs/balanced.py reached a held-out balancedness of 0.804 this way, 0.800
    without the history, and 0.808 with the history alone, which costs programs without memory more.
    """
    parts = np.array_split(loads, min(WINDOWS, len(loads)))
    last = np.rint(expected_load(loads) / len(parts)).astype(np.int64)
    # Few tokens, or a program that divides by a window's load, need windows that hold some.
    history = [part.sum(axis=0) for part in parts if part.any()]
    return np.stack([*history, np.maximum(last, loads.any(axis=0))])

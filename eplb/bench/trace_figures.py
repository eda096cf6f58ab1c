"""What a trace looks like in figures: skew, tail, groups, correlation, drift.

Covered: what the calibration compares (`eplb.bench.calibration`). Not covered: its targets.
All functions take float64 ``loads`` [windows, layers, experts], tokens per expert and window.
"""

from __future__ import annotations

import numpy as np

from eplb.placement import Deployment, ExpertPlacement
from eplb.reference import place_by_node


def place(loads: np.ndarray, deployment: Deployment) -> list[ExpertPlacement]:
    """The placement that DeepSeek's policy derives from each window."""
    windows, layers, experts = loads.shape
    phy2log = place_by_node(loads.reshape(-1, experts), deployment).reshape(windows, layers, -1)
    return [ExpertPlacement.from_phy2log(one, experts) for one in phy2log]


def imbalance(loads: np.ndarray) -> np.ndarray:
    """(max - mean) / mean over the last axis: TensorRT-LLM's imbalance ratio."""
    return loads.max(axis=-1) / loads.mean(axis=-1) - 1


def correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's correlation of expert loads per layer, averaged over layers (the last two axes)."""
    one = one - one.mean(axis=-1, keepdims=True)
    other = other - other.mean(axis=-1, keepdims=True)
    size = np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
    return ((one * other).sum(axis=-1) / size).mean(axis=-1)


def sorted_relative(loads: np.ndarray) -> np.ndarray:
    """Loads over their layer's mean, hottest expert first."""
    return -np.sort(-loads, axis=-1) / loads.mean(axis=-1, keepdims=True)


def variation(loads: np.ndarray) -> np.ndarray:
    """[windows, layers] coefficient of variation."""
    return loads.std(axis=-1) / loads.mean(axis=-1)


def gini(loads: np.ndarray) -> np.ndarray:
    """[windows, layers] Gini coefficient: 0 for equal loads, towards 1 for a single hot expert."""
    ascending = sorted_relative(loads)[..., ::-1]
    experts = loads.shape[-1]
    return ((2 * np.arange(1, experts + 1) - experts - 1) * ascending).sum(axis=-1) / experts**2


def hottest_share(loads: np.ndarray, part: float = 0.05) -> np.ndarray:
    """[windows, layers] share of the tokens that the hottest ``part`` of the experts takes."""
    experts = loads.shape[-1]
    return sorted_relative(loads)[..., : round(part * experts)].sum(axis=-1) / experts


def hill(loads: np.ndarray, part: float = 0.1) -> np.ndarray:
    """[windows, layers] Hill's estimate of the tail exponent from the hottest ``part``."""
    count = round(part * loads.shape[-1])
    tail = sorted_relative(loads)[..., : count + 1]
    return 1 / np.log(tail[..., :count] / tail[..., count:]).mean(axis=-1)


def unit_imbalance(loads: np.ndarray, units: int) -> np.ndarray:
    """[windows, layers] `imbalance` over ``units`` blocks of consecutive experts: groups, ranks."""
    return imbalance(loads.reshape(*loads.shape[:-1], units, -1).sum(axis=-1))


def over_poisson(loads: np.ndarray) -> np.ndarray:
    """[windows - 1] variance of the change from window to window, over that of sampling alone."""
    scaled = loads * (loads.mean() / loads.mean(axis=-1, keepdims=True))
    change = ((scaled[1:] - scaled[:-1]) ** 2).sum(axis=(1, 2))
    return change / (scaled[1:] + scaled[:-1]).sum(axis=(1, 2))


def hot_log_ratio(loads: np.ndarray, part: float = 0.05) -> np.ndarray:
    """[windows - 1] standard deviation of the log change of the hottest ``part`` of the experts."""
    count = round(part * loads.shape[-1])
    hottest = np.argsort(-loads[:-1], axis=-1)[..., :count]
    before = np.take_along_axis(loads[:-1], hottest, axis=-1)
    after = np.take_along_axis(loads[1:], hottest, axis=-1)
    return np.log(np.maximum(after, 1) / np.maximum(before, 1)).std(axis=-1).mean(axis=-1)

"""Cases that others reported: `pytest tests/throughput/test_reported.py`.

What is assumed beyond the reports is in the tests, and on one page in docs/throughput.md.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eplb.loads import balancedness, experts_in_order, gpu_loads
from eplb.placement import Deployment, ExpertPlacement
from eplb.reference import place
from eplb.throughput.profile import read
from eplb.throughput.worth import moving_seconds, worth
from eplb.workload_model import PRESETS, generate


@pytest.fixture(scope="module")
def windows():
    """DeepSeek-V3's loads by the workload model, 12 of its 58 layers."""
    return generate(replace(PRESETS["deepseek-v3"], layers=12)).windows()


def planned(window, deployment):
    phy2log = place(window, deployment.num_replicas, deployment.num_gpus)
    return ExpertPlacement.from_phy2log(phy2log, window.shape[1])


def test_22_rearrangements_of_0_91_s(windows):
    """vLLM #43219: DeepSeek-R1 in NVFP4, one spare slot on each of 32 GB200.

    At the speed of the links alone a rearrangement takes a fiftieth of that; the rest goes into
    the fixed stall, which is how a profile takes an engine's own measurement.
    """
    deployment = Deployment(288, 8, 8, 32)
    plans = [planned(window, deployment) for window in windows]
    links = read(["gb200-nvfp4"])["decode"]
    moves = [moving_seconds(links, *pair, deployment) * 58 / 12 for pair in zip(plans, plans[1:])]
    assert 0.01 < np.mean(moves) < 0.03
    profile = read(["gb200-nvfp4", f"fixed_stall={0.91 - np.mean(moves)}"])["decode"]
    served = [plans[index % len(plans)] for index in range(23)]
    (result,) = worth([profile], windows[np.arange(23) % 12], served, deployment)
    assert result.moving == pytest.approx(22 * 0.91, rel=0.05)


def loads_with(ratio: float, layers=2, gpus=16, experts=64) -> np.ndarray:
    """[layers, experts] such that experts in order have a balancedness of ``ratio``."""
    load = np.full((layers, experts), 10_000, dtype=np.int64)
    each = experts // gpus
    # The hottest GPU has x, the others one each: (x + gpus - 1) / gpus / x is the ratio.
    hottest = (gpus - 1) / (gpus * ratio - 1)
    load[:, :each] = round(10_000 * hottest)
    return load


def test_better_balance_and_3_17_times_slower_at_42_s_each():
    """vLLM #50647: Kimi-K3, 24 rearrangements of 42 s, balancedness 0.9356 to 0.9919.

    1,003 s of stalls and 3.17 times the time put the run without EPLB at some 460 s; the kernel
    is one whose time is that of its rows.
    """
    before, after = loads_with(0.9356), loads_with(0.9919)
    deployment = Deployment(64, 1, 2, 16)
    in_order = experts_in_order(2, 64, 64)
    assert balancedness(gpu_loads(before, in_order, 16)) == pytest.approx(0.9356, abs=1e-3)
    assert balancedness(gpu_loads(after, in_order, 16)) == pytest.approx(0.9919, abs=1e-3)
    profile = read(["h200", "prefill.tokens_per_gpu=16384", "fixed_stall=42"])["prefill"]
    # Turning about GPUs moves everything and changes no GPU's load but its place.
    turned = ExpertPlacement.from_phy2log(np.roll(in_order.phy2log, 4, axis=1), 64)
    placements = [in_order if window % 2 == 0 else turned for window in range(25)]
    (plain,) = worth([profile], np.stack([before] * 25), [in_order] * 25, deployment)
    scaled = replace(profile, steps_per_window=round(3000 * 460 / plain.seconds))
    (unplaced,) = worth([scaled], np.stack([before] * 25), [in_order] * 25, deployment)
    (rebalanced,) = worth([scaled], np.stack([after] * 25), placements, deployment)
    assert unplaced.seconds == pytest.approx(460, rel=0.01)
    assert rebalanced.moving == pytest.approx(1003, rel=0.01)
    assert rebalanced.kept < unplaced.kept
    assert rebalanced.seconds / unplaced.seconds == pytest.approx(3.17, rel=0.05)


@pytest.mark.parametrize(
    "phase, gpus, nodes, tokens, reported",
    [("prefill", 32, 4, 16384, 1.49), ("decode", 72, 9, 256, 2.54)],
)
def test_eplb_on_96_h100_in_order_of_magnitude(windows, phase, gpus, nodes, tokens, reported):
    """LMSYS, DeepSeek-R1: prefill on 32 GPUs, decode on 72, 288 slots.

    The loads are the workload model's, not theirs. They placed on a distribution known before:
    between a plan for the next window and one for a window that is known. Attention, which gains
    nothing, is not in ours.
    """
    profile = read(["h100", f"{phase}.tokens_per_gpu={tokens}"])[phase]
    deployment = Deployment(288, 8, nodes, gpus)
    plans = [planned(window, deployment) for window in windows[:-1]]
    (forecast,) = worth([profile], windows[1:], plans, deployment)
    (known,) = worth([profile], windows[:-1], plans, deployment)
    assert forecast.gain < known.gain
    assert 0.65 * reported < forecast.gain and known.gain < 1.6 * reported

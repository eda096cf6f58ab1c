"""`programs/steady.py`: few slots move, and little is lost by it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from eplb.loads import migrated_experts
from eplb.placement import Deployment
from eplb.workload_model import PRESETS, generate
from tests.programs.judging import V3, answer, drifting, fresh, next_window, swung


@pytest.mark.parametrize("noise", [0.05, 0.3])
@pytest.mark.parametrize(("deployment", "most"), [(V3, 0.25), (Deployment(288, 8, 18, 144), 0.6)])
def test_steady_moves_few_slots(noise, deployment, most):
    """In any window, that of a regime change included; more where the hottest GPU holds but two."""
    windows = drifting(10, seed=9, noise=noise, change=6)
    run_eplb = fresh("steady")
    placements = [answer(run_eplb, window, deployment) for window in windows]
    moved = [migrated_experts(a, b, deployment.num_gpus) / 288 for a, b in pairwise(placements)]
    assert max(moved) <= most


@pytest.mark.parametrize("noise", [0.05, 0.3])
@pytest.mark.parametrize("deployment", [V3, Deployment(288, 8, 18, 144)], ids=str)
def test_steady_costs_little_balancedness(noise, deployment):
    windows = drifting(10, seed=9, noise=noise, change=6, layers=32)
    lost = next_window("balanced", windows, deployment) - next_window("steady", windows, deployment)
    assert lost.mean() <= 0.01


@pytest.mark.parametrize("deployment", [V3, Deployment(320, 8, 8, 64)], ids=str)
def test_steady_parts_experts_whose_loads_rise_together(deployment):
    """Half of what experts of a group differ by from window to window they have in common."""
    windows = swung(drifting(12, seed=14, noise=0.3), seed=14)
    known, unknown = (
        next_window("steady", windows, replace(deployment, num_groups=groups)) for groups in (8, 1)
    )
    assert known.mean() >= unknown.mean() + 0.01


@pytest.mark.parametrize("spare", [4, 8])
def test_steady_puts_replicas_of_an_expert_on_different_gpus(spare):
    deployment = Deployment(256 + 32 * spare, 1, 4, 32)
    run_eplb = fresh("steady")
    for window in drifting(8, seed=15, noise=0.3):
        holders = answer(run_eplb, window, deployment).holders(32)
    assert holders.sum() >= 0.98 * holders.shape[0] * deployment.num_replicas


@pytest.mark.parametrize("experts", [128, 256, 384])
@pytest.mark.parametrize("gpus", [16, 32, 64])
def test_steady_needs_no_spare_slot(experts, gpus):
    """One hot GPU that nothing can cool does not keep swaps from the others."""
    windows = generate(
        replace(PRESETS["deepseek-v3"], layers=12, experts=experts, num_groups=1, seed=31)
    ).windows()
    deployment = Deployment(experts, 1, 1, gpus)
    lost = next_window("balanced", windows, deployment) - next_window("steady", windows, deployment)
    assert lost.mean() <= 0.015


def test_steady_leaves_a_constant_load_alone():
    windows = np.repeat(drifting(1, seed=10, noise=0.1), 4, axis=0)
    run_eplb = fresh("steady")
    placements = [answer(run_eplb, window, V3) for window in windows]
    assert migrated_experts(placements[2], placements[3], 32) <= 2

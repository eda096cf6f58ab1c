"""The leaderboard's figures and the study of growth. `pytest tests/test_leaderboard.py`"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from eplb import growth, leaderboard
from eplb.errors import UserError
from eplb.placement import Deployment
from eplb.workload_model import PRESETS

ROW = leaderboard.Row("a.py", 0.8, 0.2, 0.01, 2.0, 100.0, 0.9, 0.0)


def test_lower_bound_is_reached_where_enumeration_reaches_it():
    """Against all ways to fill 2 GPUs of 2 slots with 3 experts."""
    deployment = Deployment(4, 1, 1, 2)
    rng = np.random.default_rng(0)
    for load in rng.integers(1, 100, size=(50, 1, 3)):
        best = np.inf
        for phy2log in product(range(3), repeat=4):
            count = np.bincount(phy2log, minlength=3)
            if count.min() > 0:
                slot = (load[0] / count)[list(phy2log)]
                best = min(best, slot.reshape(2, 2).sum(axis=1).max())
        bound = leaderboard.lower_bounds(load, deployment)[0]
        assert bound <= best + 1e-9
    single = leaderboard.lower_bounds(np.array([[90, 5, 5]]), Deployment(3, 1, 1, 3))
    assert single[0] == 90
    assert leaderboard.lower_bounds(np.array([[10, 10, 10]]), deployment)[0] == 15


def test_front_keeps_what_nothing_beats():
    fast = replace(ROW, program="fast", ms=1.0, balancedness=0.7)
    good = replace(ROW, program="good", ms=3.0, balancedness=0.9)
    slow = replace(ROW, program="slow", ms=4.0, balancedness=0.8)
    assert leaderboard.pareto_front([slow, good, fast]) == [fast, good]


def test_measures_a_scenario_and_draws_it(tmp_path, monkeypatch):
    tiny = replace(
        PRESETS["deepseek-v3"],
        layers=2,
        experts=16,
        num_groups=4,
        windows=3,
        records_per_window=2,
        regime_window=None,
        shifts=(),
    )
    monkeypatch.setattr(leaderboard, "PRESETS", {"tiny": tiny})
    scenario = leaderboard.Scenario("tiny", "tiny", Deployment(20, 4, 2, 4))
    monkeypatch.setattr(leaderboard, "SCENARIOS", (scenario,))
    output, plot = tmp_path / "table.md", tmp_path / "plot.png"
    arguments = ["--repeats", "1", "--output", str(output), "--plot", str(plot)]
    assert leaderboard.main(arguments) == 0
    text = output.read_text()
    for name in ("initial.py", "balanced.py", "fastest.py", "node_local.py", "steady.py"):
        assert f"| {name} |" in text
    assert plot.stat().st_size > 1000


def test_names_the_scenarios_that_there_are():
    with pytest.raises(UserError, match="DeepSeek-V3 EP32"):
        leaderboard.main(["--scenarios", "nonesuch"])


def test_exponent_of_a_power_law():
    slots = [10, 100, 1000]
    assert growth.exponent(slots, [1.0, 10**1.5, 10**3.0]) == pytest.approx(1.5)


def test_sizes_are_deployable_and_reach_the_largest():
    for sizes in growth.SERIES.values():
        for size in sizes:
            size.deployment.check(size.experts)
    assert growth.SERIES["all"][-1] == growth.Size(128, 1024, 1024)

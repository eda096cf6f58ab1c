"""The leaderboard's figures. `pytest tests/bench/test_leaderboard.py`"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from eplb.bench import leaderboard
from eplb.common import UserError, project_file
from eplb.placement import Deployment
from eplb.trace import Trace, TraceHeader, write_trace
from eplb.workload_model import PRESETS


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


@pytest.fixture
def tiny_scenario(monkeypatch):
    """The leaderboard's only scenario."""
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


def test_measures_a_scenario_and_draws_it(tmp_path, tiny_scenario):
    output, plot = tmp_path / "table.md", tmp_path / "plot.png"
    arguments = ["--repeats", "1", "--output", str(output), "--plot", str(plot)]
    assert leaderboard.main(arguments) == 0
    text = output.read_text()
    for name in ("initial.py", "balanced.py", "node_local.py", "steady.py"):
        assert f"| {name} |" in text
    assert plot.stat().st_size > 1000


def test_lists_refused_programs_with_the_reason_and_goes_on(tmp_path, tiny_scenario):
    seed = project_file("initial.py")
    raises, wrong, right = (tmp_path / name for name in ("raises.py", "wrong.py", "right.py"))
    raises.write_text(seed.read_text() + "\n\ndef run_eplb(*_):\n    raise ValueError('a|b')\n")
    wrong.write_text(
        seed.read_text() + "\n\ndef run_eplb(*arguments):\n"
        "    phy2log, log2phy, logcnt = rebalance_experts(*arguments)\n"
        "    return phy2log * 0, log2phy, logcnt\n"
    )
    right.write_text(seed.read_text())
    output, plot = tmp_path / "table.md", tmp_path / "plot.png"
    arguments = ["--repeats", "1", "--output", str(output), "--plot", str(plot)]
    assert leaderboard.main([*arguments, "--programs", str(raises), str(wrong), str(right)]) == 0
    _, summary, details = (
        output.read_text().replace("**tiny**", "**Balancedness**").split("**Balancedness**")
    )
    assert "| wrong.py | refused |" in summary
    lines = {line.split("|")[1].strip(): line for line in details.splitlines()[4:] if line}
    assert "refused: the program failed in window 0: ValueError (line" in lines["raises.py"]
    assert "a\\|b" in lines["raises.py"]
    assert "refused: window 0: phy2log: layer 0 has no slot for expert 1" in lines["wrong.py"]
    # Every line has as many cells as the heading.
    assert {line.replace("\\|", "").count("|") for line in lines.values()} == {12}
    assert "%" in lines["right.py"]
    assert plot.stat().st_size > 1000


def test_scores_a_recorded_workload(tmp_path, tiny_scenario, capsys):
    trace = tmp_path / "mine.json"
    loads = np.random.default_rng(0).integers(1, 100, size=(7, 2, 12))
    write_trace(trace, Trace(loads, TraceHeader(rebalance_interval=2)))
    program = project_file("programs/balanced.py")
    arguments = ["--repeats", "1", "--programs", str(program), "--scenarios", "mine"]
    assert leaderboard.main([*arguments, "--trace", str(trace), "16", "4", "2", "4"]) == 0
    printed = capsys.readouterr().out
    assert "**mine.json**" in printed and "**tiny**" not in printed
    for numbers, why in (
        (("16", "4", "2", "four"), "four is not a whole number"),
        (("15", "4", "2", "4"), "num_replicas 15"),
    ):
        with pytest.raises(UserError, match=f"mine.json.*{why}"):
            leaderboard.main(["--trace", str(trace), *numbers])


def test_names_the_scenarios_that_there_are():
    with pytest.raises(UserError, match="DeepSeek-V3 EP32"):
        leaderboard.main(["--scenarios", "nonesuch"])


def test_gives_each_gpu_more_slots_than_experts_need(tmp_path, tiny_scenario):
    output = tmp_path / "table.md"
    program = str(project_file("programs/balanced.py"))
    arguments = ["--repeats", "1", "--output", str(output), "--programs", program]
    assert leaderboard.main([*arguments, "--spare_slots", "0", "2"]) == 0
    text = output.read_text()
    assert "| program | tiny, 0 spare | tiny, 2 spare |" in text
    (row,) = [
        line
        for line in text.split("**Balancedness under lp**")[1].splitlines()[:6]
        if "balanced" in line
    ]
    none, two = (float(cell) for cell in row.split("|")[2:4])
    assert two > none

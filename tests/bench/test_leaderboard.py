"""The leaderboard's figures. `pytest tests/bench/test_leaderboard.py`"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from eplb.bench import growth, leaderboard, scenarios
from eplb.common import UserError, project_file
from eplb.placement import Deployment
from eplb.sandbox.runner import Refused
from eplb.trace import Trace, TraceHeader, write_trace
from eplb.workload_model import PRESETS, generate


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
    scenario = scenarios.Scenario("tiny", tiny, Deployment(20, 4, 2, 4))
    monkeypatch.setattr(leaderboard, "SCENARIOS", (scenario,))
    return scenario


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
    lines = output.read_text().splitlines()
    row = [line for line in lines if line.startswith("| wrong.py |")][-1]
    assert row == "| wrong.py |" + " refused |" * 12
    assert any(
        "- raises.py: refused: the program failed in window 0: ValueError (" in line
        for line in lines
    )
    assert "- wrong.py: refused: window 0: phy2log: layer 0 has no slot for expert 1" in lines
    assert "%" in [line for line in lines if line.startswith("| right.py |")][-1]
    assert plot.stat().st_size > 1000


def test_scores_a_recorded_workload(tmp_path, tiny_scenario, capsys):
    trace = tmp_path / "mine.json"
    loads = np.random.default_rng(0).integers(1, 100, size=(7, 2, 12))
    write_trace(trace, Trace(loads, TraceHeader(rebalance_interval=2)))
    program = project_file("programs/balanced.py")
    arguments = ["--repeats", "1", "--programs", str(program), "--scenarios", "mine"]
    assert leaderboard.main([*arguments, "--trace", str(trace), "16", "4", "2", "4"]) == 0
    printed = capsys.readouterr().out
    assert "**mine.json EP4**" in printed and "tiny" not in printed
    for numbers, why in (
        (("16", "4", "2", "four"), "four is not a whole number"),
        (("15", "4", "2", "4"), "num_replicas 15"),
    ):
        with pytest.raises(UserError, match=f"mine.json.*{why}"):
            leaderboard.main(["--trace", str(trace), *numbers])


def test_every_scenario_is_deployable_with_and_without_spare_slots():
    names = [scenario.name for scenario in scenarios.SCENARIOS]
    assert len(set(names)) == len(names)
    for scenario in scenarios.SCENARIOS:
        experts = scenario.workload.experts
        scenario.deployment.check(experts)
        for spare in (0, 8):
            slots = scenario.with_spare(spare).deployment.slots_per_gpu
            assert slots == -(-experts // scenario.deployment.num_gpus) + spare


def test_every_preset_is_a_scenario_on_its_own_deployment():
    shown = [(each.workload, each.deployment) for each in scenarios.SCENARIOS]
    for name, preset in PRESETS.items():
        assert ((preset, preset.deployment) in shown) == (name != "tiny")


def test_a_model_is_served_with_its_own_experts_per_token():
    for scenario in scenarios.SCENARIOS:
        for serving in scenario.servings:
            for profile in serving.profiles.values():
                assert profile.top_k == scenario.workload.top_k


def test_two_of_one_name_are_refused_before_the_work(tmp_path):
    """Tables name programs and recordings by their files."""
    (tmp_path / "balanced.py").write_text("")
    programs = [str(tmp_path / "balanced.py"), str(project_file("programs/balanced.py"))]
    for command in (leaderboard, growth):
        with pytest.raises(UserError, match="--programs: two are called balanced"):
            command.main(["--programs", *programs])
    trace = ["--trace", str(project_file("expert-load.json"))]
    twice = [*trace, "288", "8", "4", "32", *trace, "320", "8", "4", "32"]
    with pytest.raises(UserError, match="--trace: two are called expert-load.json EP32"):
        leaderboard.main(twice)


def test_names_the_scenarios_that_there_are():
    with pytest.raises(UserError, match="DeepSeek-V3 EP32"):
        leaderboard.main(["--scenarios", "nonesuch"])


def rows_of(text: str, title: str) -> list[list[str]]:
    """The cells of the table below ``title``."""
    table = text.split(f"**{title}**\n\n")[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]


def test_gives_each_gpu_more_slots_than_experts_need(tmp_path, tiny_scenario):
    output = tmp_path / "table.md"
    program = str(project_file("programs/balanced.py"))
    arguments = ["--repeats", "1", "--output", str(output), "--programs", program]
    assert leaderboard.main([*arguments, "--spare_slots", "0", "2", "0"]) == 0
    balance = []
    for spare in (0, 2):
        heading, _, row = rows_of(output.read_text(), f"tiny, {spare} spare")
        assert row[0] == "balanced.py" and not {"ms", leaderboard.SPEED} & {*heading}
        balance.append(float(row[heading.index("balancedness under lp")]))
    assert balance[1] > balance[0]
    for spare in ("-1", "99999"):
        with pytest.raises(UserError, match=f"--spare_slots {spare} on tiny: num_replicas"):
            leaderboard.main([*arguments, "--spare_slots", spare])
    with pytest.raises(UserError, match="--plot shows speed"):
        leaderboard.main(["--spare_slots", "1", "--plot", str(tmp_path / "plot.png")])


def test_tells_how_far_ahead_of_the_best_published_program(tmp_path, tiny_scenario):
    """One that is published, as far as the leaderboard can know, is not in programs/."""
    ours, theirs = project_file("programs/balanced.py"), tmp_path / "theirs.py"
    theirs.write_text(ours.read_text())
    output = tmp_path / "table.md"
    programs = ["--programs", str(theirs), str(ours)]
    assert leaderboard.main([*programs, "--repeats", "1", "--output", str(output)]) == 0
    title = "Over the bound, ahead of the best published program"
    heading, _, row = rows_of(output.read_text(), title)
    assert heading == ["scenario", "balanced.py"] and row == ["tiny", "+0.0000"]


def test_figures_are_means_over_seeds_and_a_recording_has_none(tmp_path, tiny_scenario):
    trace = tmp_path / "mine.json"
    write_trace(trace, generate(replace(tiny_scenario.workload, seed=7)))
    numbers = [str(size) for size in vars(tiny_scenario.deployment).values()]
    program = str(project_file("programs/balanced.py"))
    figures = {}
    for seeds in ("5", "6", "5 6", "7"):
        output = tmp_path / "table.md"
        arguments = ["--repeats", "1", "--programs", program, "--output", str(output)]
        arguments += ["--trace", str(trace), *numbers, "--seeds", *seeds.split(), seeds[0]]
        assert leaderboard.main(arguments) == 0
        text = output.read_text()
        assert f"workload seeds {seeds.replace(' ', ', ')}." in text
        for title in ("tiny", "mine.json EP4"):
            heading, _, _, row = rows_of(text, title)
            assert heading[-1] == leaderboard.SPEED and float(row[-1]) > 0
            figures[title, seeds] = np.array([float(cell) for cell in row[1:3]])
    both = (figures["tiny", "5"] + figures["tiny", "6"]) / 2
    assert figures["tiny", "5 6"] == pytest.approx(both, abs=1.01e-4)
    assert figures["tiny", "5"] != pytest.approx(figures["tiny", "6"], abs=1e-3)
    for seeds in ("5", "5 6", "7"):
        same = figures["mine.json EP4", seeds]
        assert same == pytest.approx(figures["tiny", "7"])


def found(local: float, *values: float) -> dict[str, dict[str, float]]:
    """A program with ``values`` on the workloads of seeds 0, 1, ..."""
    every = {f"seed {seed}": value for seed, value in enumerate(values)}
    return {
        name: dict.fromkeys(leaderboard.COLUMNS, value) | {leaderboard.NODE_LOCAL: local}
        for name, value in (every | {leaderboard.MEAN: np.mean(values)}).items()
    }


def test_the_lead_is_over_programs_of_the_same_placement():
    """A node-local program is compared with node-local ones; a smaller gap is ahead."""
    rows = {
        "initial.py": found(1.0, 0.99),
        "free.py": found(0.1, 0.8),
        "local.py": found(1.0, 0.5),
        "gone.py": Refused("too slow"),
        "balanced.py": found(0.3, 0.7),
        "node_local.py": found(1.0, 0.6),
    }
    for program, lead in (("balanced.py", -0.1), ("node_local.py", 0.1), ("gone.py", np.inf)):
        assert leaderboard.lead(rows, program, "balancedness") == pytest.approx(lead)
    assert leaderboard.lead(rows, "balanced.py", "over the bound") == pytest.approx(-0.2)
    del rows["local.py"]
    assert leaderboard.lead(rows, "node_local.py", "balancedness") == np.inf
    worse = rows | {"balanced.py": found(0.3, 0.65)}
    table = leaderboard.summaries({"here": rows, "there": worse})
    assert "| balancedness | -0.1500 (there, seed 0) |  |" in table
    assert "| here | -0.1000 |  |" in table and "| there | -0.1500 |  |" in table
    assert "free.py" not in table and "initial.py" not in table


def test_leads_are_over_the_best_by_its_mean_and_on_each_seed_over_the_best_there():
    rows = {
        "steady.py": found(0.3, 0.60, 0.80),
        "one.py": found(0.3, 0.50, 0.85),
        "other.py": found(0.3, 0.62, 0.70),
        "refused.py": Refused("no"),
    }
    table = leaderboard.summaries({"here": rows, "nowhere": rows | {"steady.py": Refused("no")}})
    assert rows_of(table, "Balancedness, ahead of the best published program")[2:] == [
        ["here", "+0.0250"],
        ["nowhere", ""],
    ]
    title = "Least lead over the best published program, on the workload of a single seed"
    assert rows_of(table, title)[2] == ["balancedness", "-0.0500 (here, seed 1)"]

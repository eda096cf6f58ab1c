"""What to deploy: `pytest tests/planning/test_advice.py`."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eplb.common import UserError
from eplb.engines.choice import place_greedily
from eplb.engines.registry import read_statistics
from eplb.evaluation.measure import ProgramRun
from eplb.placement import Deployment
from eplb.planning import advice, advice_report
from eplb.planning.advice import Study, Trial, deployment_of, held_out, in_windows
from eplb.throughput.profile import Serving, default_serving
from eplb.throughput.worth import Worth
from eplb.trace import History, read_trace, write_trace
from eplb.workload_model import PRESETS, generate
from tests.engines.samples import statistics
from tests.planning.commands import GreedySandbox, advised, generated

ROOT = Path(__file__).parents[2]


def trace_file(path: Path, preset="deepseek-v3", **changes) -> Path:
    small = {"layers": 2, "experts": 32, "top_k": 4, "num_groups": 1} | changes
    write_trace(path, generate(replace(PRESETS[preset], **small)))
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    return trace_file(tmp_path_factory.mktemp("recording") / "trace.json")


@pytest.fixture
def no_sandbox(monkeypatch):
    monkeypatch.setattr(advice_report, "Sandbox", GreedySandbox)


def told(recording, **options):
    options = {"ep_size": [4], "gpus_per_node": 2} | options
    return advised(expert_statistic_path=recording, **options)


def rows_of(text: str, phase: str) -> list[list[str]]:
    part = text.split(f"\n{phase}:\n")[1].split("spare slots on each rank")[0]
    return [line.strip("* ").split() for line in part.splitlines()[1:] if line.strip()]


def test_the_table_has_every_number_of_spare_slots_and_intervals(no_sandbox, recording, tmp_path):
    plot, shares = tmp_path / "plot.svg", []
    text, warnings = told(recording, plot=plot, progress=shares.append)
    for phase in ("prefill", "decode"):
        rows = rows_of(text, phase)
        assert [int(row[1]) for row in rows] == [spare for spare in range(9) for _ in range(4)]
        # 120 iterations of 10 steps in 16 windows, of which 8 are held out.
        assert [row[3] for row in rows[:4]] == ["never", "280", "140", "70"]
        # Memory is the slots' and nothing else: 8 of 2 layers, and one more each.
        size = 2 * 44040192 / 1e9
        assert [float(row[2]) for row in rows[::4]] == pytest.approx(
            [(8 + spare) * size for spare in range(9)], abs=0.06
        )
        assert all(0 < float(row[5]) <= 1 for row in rows)
    assert warnings == [] and plot.stat().st_size > 1000
    assert "What spare slots and rebalancing are worth" in plot.read_text()
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert "judged on 64 to 119" in text
    assert "one recording cannot say" in text


def test_the_command_that_it_ends_with_makes_the_file(no_sandbox, recording, tmp_path):
    text, _ = told(recording, iter_stop=100, hardware=["h200", "decode.tokens_per_gpu=999"])
    command = text.splitlines()[-1].split()
    assert "--iter_stop 100" in text.splitlines()[-1] and "--program_path" not in text
    other, _ = told(recording, program_path="initial.py")
    assert "--program_path initial.py" in other.splitlines()[-1]
    made = subprocess.run(
        [sys.executable, ROOT / command[1], *command[2:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "moe_load_balancer.yaml").is_file()


@pytest.mark.parametrize(
    "sizes", [{"num_nodes": 3, "num_gpus": 3}, {"num_nodes": 4, "num_groups": 8}]
)
def test_the_command_makes_the_deployment_that_was_tried(no_sandbox, tmp_path, sizes):
    """Whatever the recording tells of its own."""
    trace = generate(replace(PRESETS["stationary"], layers=8, experts=64))
    header = replace(trace.header, num_nodes=None, num_groups=None)
    write_trace(tmp_path / "trace.json", replace(trace, header=replace(header, **sizes)))
    text, _ = told(tmp_path / "trace.json", gpus_per_node=4, num_groups=1)
    command = shlex.split(text.splitlines()[-1])[2:]
    output = command[command.index("--output_path") + 1] = tmp_path / "plan.json"
    given = {option[2:]: value for option, value in zip(command[::2], command[1::2])}
    generated(**given, format="trace")
    found = read_trace(output).deployment()
    assert (found.num_gpus, found.num_nodes, found.num_groups) == (4, 1, 1)


def test_as_a_user_runs_it(recording, tmp_path):
    """With a program that places experts in order: a sandbox, and nothing to gain."""
    command = [sys.executable, ROOT / "plan_deployment.py", "--expert_statistic_path", recording]
    run = subprocess.run([*command, "--ep_size", "0"], capture_output=True, text=True)
    assert run.returncode == 2 and "Traceback" not in run.stderr
    run = subprocess.run([*command, "--ep_size", "4"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert re.search(r"^recommended: 4 ranks, ", run.stdout, re.MULTILINE)


def test_several_ep_sizes_are_compared(no_sandbox, recording):
    text, _ = told(recording, ep_size=[4, 8, 4])
    ranks = [int(row[0]) for row in rows_of(text, "decode")]
    assert ranks == [4] * 36 + [8] * 36


def test_two_recordings_say_whether_the_phases_need_different_plans(
    no_sandbox, recording, tmp_path
):
    # Every window like the last: a plan that stays is right for all that is to come.
    steady = {"regime_window": None, "drift": 0.0, "shifts": ()}
    first = trace_file(tmp_path / "first.json", "stationary", **steady)
    other = trace_file(tmp_path / "other.json", "stationary", seed=99, **steady)
    same, _ = told(first, decode_statistic_path=first)
    assert "can share a plan" in same
    apart, _ = told(first, decode_statistic_path=other)
    assert "need plans of their own" in apart
    fewer = trace_file(tmp_path / "fewer.json", experts=16)
    with pytest.raises(UserError, match="two models: 2 layers of 32 experts, and 2 of 16"):
        told(first, decode_statistic_path=fewer)


def test_dispatch_is_compared_for_what_is_recommended(no_sandbox, recording):
    text, _ = told(recording, dispatch="lp", hardware=["h200", "tokens_per_gpu=8192"])
    line = next(line for line in text.splitlines() if line.startswith("kept by dispatch"))
    assert line.split()[3:] == ["even", "nearest", "by_rank", "lp"]
    # Where moving weights into spare slots is worth nothing there is nothing to compare.
    text, _ = told(
        recording, hardware=["h200", "prefill.tokens_per_gpu=1", "decode.tokens_per_gpu=1"]
    )
    assert "no spare slots" in text and "the same by every rule" in text


def test_a_recording_that_is_too_short_is_told(no_sandbox, tmp_path):
    short = trace_file(tmp_path / "short.json", windows=2, records_per_window=2, regime_window=None)
    text, warnings = told(short, hardware=["h200", "steps_per_window=9"])
    assert any("too short to say how often to rebalance: 2 windows" in each for each in warnings)
    once = tmp_path / "once.json"
    once.write_text("[[1, 2, 3, 4]]")
    with pytest.raises(UserError, match=f"{once}: the trace has 1 record"):
        told(once)
    sparse = trace_file(tmp_path / "sparse.json", tokens_per_record=20)
    _, warnings = told(sparse)
    assert any("tokens in a window, which is mostly chance" in each for each in warnings)
    with pytest.raises(UserError, match="1 record and makes no two windows"):
        in_windows(statistics(layers=(0,), experts=8).loads[:1])


def history_of(recording) -> History:
    return in_windows(read_statistics(recording).loads)


def study_of(history: History, serving: Serving, seconds=0.0) -> Study:
    """Greedy plans that take so many seconds each; five steps an iteration."""

    def ask(windows: np.ndarray, deployment: Deployment) -> ProgramRun:
        placements = [place_greedily(window, deployment) for window in windows]
        return ProgramRun(placements, np.full((1, len(windows)), seconds), np.empty((0, 0)))

    return Study(dict.fromkeys(serving.profiles, history), serving, 5, ask)


def test_no_window_is_served_by_a_plan_that_has_seen_it(recording):
    """The n-th plan is marked by the expert in its first slot."""
    history = history_of(recording)
    deployment = deployment_of(32, 4, 1, 2, 1)
    free = Serving(
        {"prefill": replace(default_serving().profiles["prefill"], link_between_nodes=1e9)}
    )
    placements, times = study_of(history, free).schedule("prefill", deployment, 1)
    assert len(placements) == len(times) == 8
    # Changing the windows from one on cannot change the placements that serve up to it.
    for index in range(8, 16):
        records = history.records.copy()
        records[index:] = records[index:, ..., ::-1]
        blind = History(records)
        again, _ = study_of(blind, free).schedule("prefill", deployment, 1)
        for one, other in zip(placements[: index - 7], again):
            assert (one.phy2log == other.phy2log).all()


def test_planning_and_moves_are_paid_for_at_every_rebalancing(recording):
    study = study_of(history_of(recording), default_serving(), 0.25)
    trials = list(study.trials("decode", deployment_of(32, 4, 1, 2, 1)))
    assert [trial.every for trial in trials] == [0, 4, 2, 1]
    assert [trial.worth.planning for trial in trials] == pytest.approx([0, 0.25, 0.75, 1.75])
    assert [trial.steps for trial in trials] == [0, 140, 70, 35]
    assert all(trial.stall >= 0.25 for trial in trials[1:])


def trial_with(spare: int, every: int, speed: float) -> Trial:
    worth = Worth(0.5, 0.0, 0.5, 0.0, 0.0, 1.0, tokens=speed)
    deployment = Deployment(8 + spare, 1, 1, 1)
    return Trial(deployment, spare, every, every, 1.0, 0.5, worth, 0.0, 0.0)


def chosen(*trials: Trial) -> Trial:
    return advice_report.choose({"decode": [*trials]})["decode"]


def test_the_simplest_of_what_is_as_good_is_chosen():
    best = trial_with(3, 1, 1000.0)
    assert chosen(best, trial_with(0, 1, 990.0)) is best
    simpler = trial_with(1, 1, 996.0)
    assert chosen(best, simpler, trial_with(0, 1, 990.0)) is simpler
    rarely, never = trial_with(1, 4, 996.0), trial_with(1, 0, 996.0)
    assert chosen(best, simpler, rarely) is rarely
    assert chosen(best, rarely, simpler, never) is never


def test_one_choice_for_both_phases_is_one_that_both_have():
    """The mean over the phases decides, not one of them; intervals of one alone do not count."""
    fast, even, slow = (trial_with(2, 1, speed) for speed in (1000.0, 900.0, 500.0))
    other_fast, other_slow = trial_with(0, 1, 1000.0), trial_with(0, 1, 600.0)
    trials = {"prefill": [fast, other_slow], "decode": [even, other_fast]}
    assert advice_report.choose(trials) == {"prefill": fast, "decode": even}
    trials = {"prefill": [slow, other_fast, trial_with(0, 0, 9000.0)], "decode": [even, other_fast]}
    assert advice_report.choose(trials) == {"prefill": other_fast, "decode": other_fast}


def test_the_newest_iterations_make_whole_windows(recording):
    history, loads = history_of(recording), read_statistics(recording).loads
    assert history.records.shape[:2] == (advice.WINDOWS, 7) and len(loads) == 120
    assert (history.windows.sum(axis=0) == loads[-112:].sum(axis=0)).all()
    assert (held_out(history).windows == history.windows[7:]).all()


def test_a_layer_that_one_phase_never_used_is_placed_for_both(no_sandbox, tmp_path):
    trace = generate(replace(PRESETS["stationary"], layers=2, experts=32, top_k=4, num_groups=1))
    loads = trace.loads.copy()
    loads[:, 1] = 0
    whole, half = tmp_path / "whole.json", tmp_path / "half.json"
    write_trace(whole, trace)
    write_trace(half, replace(trace, loads=loads))
    text, _ = told(whole, decode_statistic_path=half)
    assert "kept by a plan for:" in text

"""The order of an evaluation, with a sandbox that is none: `pytest tests/evaluation`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eplb import reference
from eplb.common import UserError
from eplb.evaluation import measure as evaluation
from eplb.evaluation.measure import Criteria, Settings, evaluate
from eplb.placement import Deployment, ExpertPlacement
from eplb.sandbox.runner import Answer, Refused, Run
from eplb.trace import Trace, TraceHeader, write_trace
from tests.strategies import random_loads

DEPLOYMENT = Deployment(num_replicas=16, num_groups=4, num_nodes=2, num_gpus=4)
RECORDS, LAYERS, EXPERTS = 17, 2, 12


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.json"
    loads = random_loads(1, RECORDS, LAYERS, EXPERTS)
    write_trace(path, Trace(loads, TraceHeader(rebalance_interval=3)))
    return path


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text("# never run here")
    return path


def good(windows, repeat, slots=DEPLOYMENT.num_replicas):
    answers = []
    for load in windows:
        phy2log = reference.place(load, slots, DEPLOYMENT.num_gpus)
        p = ExpertPlacement.from_phy2log(phy2log, EXPERTS)
        answers.append(Answer(p.phy2log, p.log2phy, p.logcnt))
    return answers


@pytest.fixture
def sandbox(monkeypatch):
    """Stands in for the real one: every run is written down, and `answer` makes the answers."""

    class Recorder:
        isolation = "none"
        runs: list = []
        answer = staticmethod(good)
        seed = staticmethod(good)

        def __init__(self, timeout, hidden):
            Recorder.timeout, Recorder.hidden = timeout, hidden

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def run(self, program, windows, deployment, answered):
            seed = program.name == "initial.py"
            repeat = sum(name != "initial.py" for name, _ in Recorder.runs)
            Recorder.runs.append((program.name, windows))
            answers = (Recorder.seed if seed else Recorder.answer)(windows, repeat)
            for _ in windows:
                answered()
            return Run(answers, np.full(len(windows), 0.2 if seed else 0.001 * (repeat + 1)))

    Recorder.runs = []
    monkeypatch.setattr(evaluation, "Sandbox", Recorder)
    return Recorder


@pytest.fixture
def run(trace, program):
    def run(progress=lambda share: None, **changes):
        return evaluate(replace(Settings(program, trace, vars(DEPLOYMENT)), **changes), progress)

    return run


def test_the_deployment_is_the_traces_where_nothing_else_is_asked_for(run, sandbox, trace):
    loads = random_loads(1, RECORDS, LAYERS, EXPERTS)
    header = TraceHeader(
        rebalance_interval=3, num_replicas=20, num_groups=4, num_nodes=1, num_gpus=4
    )
    write_trace(trace, Trace(loads, header))
    sandbox.answer = sandbox.seed = staticmethod(lambda windows, repeat: good(windows, repeat, 20))
    result = run(header={})
    assert result.deployment == result.scores.deployment == Deployment(20, 4, 1, 4)
    sandbox.answer = sandbox.seed = staticmethod(good)
    assert run(header={"num_replicas": 16}).deployment == Deployment(16, 4, 1, 4)


def test_a_deployment_that_nobody_names_is_asked_for(run, sandbox):
    with pytest.raises(UserError, match=r"12 experts.*give --num_replicas and --num_gpus"):
        run(header={})
    with pytest.raises(UserError, match=r"12 experts.*give --num_gpus"):
        run(header={"num_replicas": 16})


def test_the_seed_runs_before_each_repeat_and_no_run_sees_the_last_window(run, sandbox, trace):
    result = run(repeats=2, timeout=7.0, hidden=(Path("results"),))
    assert [name for name, _ in sandbox.runs] == ["initial.py", "program.py"] * 2
    loads = random_loads(1, RECORDS, LAYERS, EXPERTS)
    # 17 records are five windows of three; the two left over are dropped.
    windows = [loads[3 * w : 3 * w + 3].sum(axis=0) for w in range(5)]
    np.testing.assert_array_equal(sandbox.runs[0][1], windows[:2])
    np.testing.assert_array_equal(sandbox.runs[1][1], windows[:4])
    assert sandbox.timeout == 7.0
    assert sandbox.hidden == (trace, Path("results"))
    assert result.refusal is None
    assert result.seed_scores is None
    np.testing.assert_array_equal(result.run.seconds, [[0.001] * 4, [0.002] * 4])
    np.testing.assert_array_equal(result.run.seed_seconds, [[0.2] * 2] * 2)
    np.testing.assert_array_equal(result.history.records[4], loads[12:15])


def test_the_seed_answers_everything_for_a_comparison(run, sandbox):
    result = run(seed_history=True)
    assert [len(windows) for _, windows in sandbox.runs[:2]] == [4, 2]
    assert result.seed_scores.balancedness_score.shape == (4,)


def test_the_interval_can_be_chosen(run, sandbox):
    run(header=vars(DEPLOYMENT) | {"rebalance_interval": 8})
    assert [len(windows) for _, windows in sandbox.runs] == [1] * 6


def test_a_repeat_that_places_differently_is_refused(run, sandbox):
    def answer(windows, repeat):
        answers = good(windows, repeat)
        if repeat == 1:
            # Layer 1 exchanges the experts of two slots.
            phy2log = answers[2].phy2log.copy()
            other = int(np.flatnonzero(phy2log[1] != phy2log[1, 5])[-1])
            phy2log[1, [5, other]] = phy2log[1, [other, 5]]
            p = ExpertPlacement.from_phy2log(phy2log, EXPERTS)
            answers[2] = Answer(p.phy2log, p.log2phy, p.logcnt)
        return answers

    sandbox.answer = staticmethod(answer)
    result = run()
    assert str(result.refusal).startswith("window 2: layer 1, slot 5 holds expert ")
    assert "in run 2 on the same windows" in str(result.refusal)
    assert (result.run, result.scores) == (None, None)


def test_another_order_or_width_of_log2phy_is_no_other_answer(run, sandbox):
    def answer(windows, repeat):
        pad = np.full((LAYERS, EXPERTS, repeat), -1)
        return [
            Answer(a.phy2log, np.concatenate([a.log2phy, pad], axis=2), a.logcnt)
            for a in good(windows, repeat)
        ]

    sandbox.answer = staticmethod(answer)
    assert run().refusal is None


@pytest.mark.parametrize("broken", [0, 2])
def test_one_bad_answer_in_any_repeat_refuses_the_program(run, sandbox, broken):
    def answer(windows, repeat):
        answers = good(windows, repeat)
        if repeat == broken:
            answers[2].logcnt[1, 3] += 1
        return answers

    sandbox.answer = staticmethod(answer)
    result = run()
    assert str(result.refusal).startswith("window 2: logcnt: layer 1, expert 3 claims")
    assert result.run is None


def test_a_refusal_by_the_sandbox_is_the_programs(run, sandbox):
    def answer(windows, repeat):
        raise Refused("the program took longer than 60 s", ["line 3, in pack"])

    sandbox.answer = staticmethod(answer)
    result = run()
    assert str(result.refusal) == "the program took longer than 60 s"
    assert result.refusal.traceback == ["line 3, in pack"]


def test_a_seed_that_fails_is_the_users_to_put_right(run, sandbox, trace):
    def seed(windows, repeat):
        raise Refused("took longer than 1 s")

    sandbox.seed = staticmethod(seed)
    with pytest.raises(UserError, match=r"the seed program, .*took longer than 1 s.*--timeout"):
        run()


def test_locality_is_required_of_the_program_on_demand(run, sandbox):
    assert run().refusal is None
    sandbox.seed = staticmethod(in_order)
    assert "locality: layer" in str(run(criteria=Criteria(require_locality=True)).refusal)


def in_order(windows, repeat):
    """Groups 0 and 1 on the first node, 2 and 3 on the second."""
    phy2log = np.tile([0, 1, 2, 3, 4, 5, 0, 1, 6, 7, 8, 9, 10, 11, 6, 7], (LAYERS, 1))
    p = ExpertPlacement.from_phy2log(phy2log, EXPERTS)
    return [Answer(p.phy2log, p.log2phy, p.logcnt)] * len(windows)


def test_locality_cannot_be_required_where_groups_do_not_divide(run, sandbox):
    with pytest.raises(UserError, match=r"num_groups 3 is not a multiple of num_nodes 2.* is 4"):
        run(criteria=Criteria(require_locality=True), header={**vars(DEPLOYMENT), "num_groups": 3})
    assert sandbox.runs == []


def test_progress_goes_from_nothing_to_all(run, sandbox):
    shares = []
    run(progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert all(0 <= share <= 1 for share in shares)
    # It moves with every window of the seed and of the program, in each of three repeats.
    assert len(set(shares)) == 3 * (2 + 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"program": Path("/no/such.py")}, "there is no program /no/such.py"),
        ({"program": Path("/tmp")}, "/tmp is a folder"),
        ({"trace": Path("/no/trace.json")}, "/no/trace.json"),
        (
            {"header": {**vars(DEPLOYMENT), "rebalance_interval": 9}},
            "trace .*trace.json: 17 records make 1 whole window",
        ),
        ({"header": {**vars(DEPLOYMENT), "num_replicas": 18}}, "num_replicas 18.* 16 or 20"),
        ({"header": {**vars(DEPLOYMENT), "num_replicas": 8}}, "num_replicas 8 is fewer than"),
        ({"header": {**vars(DEPLOYMENT), "num_groups": 5}}, "num_groups 5 does not divide"),
        ({"header": {**vars(DEPLOYMENT), "num_nodes": 3}}, "num_gpus 4.* num_nodes 3"),
    ],
)
def test_what_the_user_can_put_right(run, sandbox, changes, message):
    with pytest.raises(UserError, match=message):
        run(**changes)
    assert sandbox.runs == []


def test_layers_and_experts_without_load(run, sandbox, trace):
    loads = random_loads(1, RECORDS, LAYERS, EXPERTS)
    loads[:, 0] = 0
    loads[3:6] = 0
    write_trace(trace, Trace(loads, TraceHeader(rebalance_interval=3)))
    result = run()
    assert result.refusal is None
    # Window 1 is judged on after window 0.
    known = np.isfinite(result.scores.balancedness_score)
    assert known.tolist() == [False, True, True, True]


def test_a_trace_without_tokens_is_no_trace(run, sandbox, trace):
    loads = random_loads(1, RECORDS, LAYERS, EXPERTS) + 1
    for empty, verb in ((slice(None), "shown"), (slice(0, 12), "shown"), (slice(3, 17), "judged")):
        some = loads.copy()
        some[empty] = 0
        write_trace(trace, Trace(some, TraceHeader(rebalance_interval=3)))
        with pytest.raises(UserError, match=f"trace.json: no window that a program is {verb}"):
            run()

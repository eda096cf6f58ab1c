"""The command: `pytest tests/evaluation/test_evaluate.py`.

One real sandbox serves all tests that run in this process, since each imports torch; a few run the
command as a user does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext

import pytest

import evaluate
from eplb.common import exit_on_user_error, project_file
from eplb.evaluation import fresh
from eplb.evaluation import measure as evaluation
from eplb.evaluation.results import prepare, write_results
from eplb.sandbox.runner import Sandbox
from eplb.trace import Trace, TraceHeader, write_trace
from tests.strategies import random_loads

SHAPE = ["--num_replicas=16", "--num_groups=4", "--num_nodes=2", "--num_gpus=4"]
SEED = project_file("initial.py")


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "expert-load.json"
    loads = random_loads(1, 12, 3, 12)
    loads[:, 2] = 0
    loads[:, :, 5] = 0
    write_trace(path, Trace(loads, TraceHeader(rebalance_interval=3)))
    return path


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(20.0) as sandbox:
        yield sandbox


@pytest.fixture
def command(sandbox, trace, monkeypatch, tmp_path, capsys):
    """Run the command in this process: status, standard output, standard error."""
    monkeypatch.setattr(evaluation, "Sandbox", lambda *_: nullcontext(sandbox))
    monkeypatch.chdir(tmp_path)

    def command(*arguments, program=SEED):
        everything = ["--program_path", program, "--trace", trace, *SHAPE, *arguments]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, everything)])
        with pytest.raises(SystemExit) as left:
            exit_on_user_error(evaluate.main)
        return left.value.code, *capsys.readouterr()

    return command


@pytest.fixture
def program(tmp_path):
    def program(text):
        path = tmp_path / "program.py"
        path.write_text(text)
        return path

    return program


def results(folder):
    return [json.loads((folder / name).read_text()) for name in ("metrics.json", "correct.json")]


def leave_stale_results(folder):
    """What an earlier, excellent program left."""
    prepare(folder)
    write_results(folder, {"combined_score": 0.99, "all_validation_errors": []})
    (folder / "notes.txt").write_text("mine")


def test_a_scored_program(command, tmp_path):
    leave_stale_results(tmp_path / "results")
    status, out, err = command("--repeats=2", "--locality=require")
    assert status == 0
    assert err == ""
    assert out.startswith(f"program                 {SEED}\ntrace")
    metrics, correct = results(tmp_path / "results")
    assert correct["correct"] is True
    assert metrics["combined_score"] != 0.99
    assert metrics["public"]["node_locality"] == 1.0
    assert metrics["public"]["removed"] > 0
    assert not (tmp_path / "results" / "plots").exists()


def test_json_and_plots(command, tmp_path):
    folder = tmp_path / "elsewhere"
    status, out, _ = command("--json", "--plots", "--scoring=adrs", "--results_dir", folder)
    assert status == 0
    metrics, correct = results(folder)
    assert json.loads(out) == {"correct": True, **metrics}
    assert metrics["combined_score"] == metrics["private"]["combined_scores"]["adrs"]
    assert len(metrics["private"]["seed_balancedness_by_window"]) == 3
    for name in ("gpu_loads.png", "balancedness.png"):
        assert (folder / "plots" / name).read_bytes().startswith(b"\x89PNG")
    command("--repeats=1", "--results_dir", folder)
    assert list((folder / "plots").iterdir()) == []


def seed_with(entry_point):
    """The seed with another ``run_eplb``."""
    return f"{SEED.read_text()}\n\nseed = run_eplb\n\n\n{entry_point}\n"


BROKEN = {
    "syntax error": ("def rebalance_experts(:\n", "SyntaxError"),
    "not text": ("\udcff\udcfe", "UTF-8"),
    "exception": (
        seed_with("def run_eplb(*_):\n    raise ValueError('no idea')"),
        "raise ValueError('no idea')",
    ),
    "wrong answer": (
        seed_with("def run_eplb(*a):\n    p, l, c = seed(*a)\n    return p, l, c + 1"),
        "window 0: logcnt: layer 0, expert 0 claims",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_program_is_refused_and_told_why(name, command, tmp_path):
    text, reason = BROKEN[name]
    path = tmp_path / "program.py"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    leave_stale_results(tmp_path / "results")
    status, out, err = command(program=path)
    assert (status, err) == (1, "")
    assert out.startswith("program                 program.py\ntrace")
    assert "REFUSED, score 0\n" in out
    metrics, correct = results(tmp_path / "results")
    assert correct["correct"] is False
    assert reason in correct["error"]
    assert "\n" not in correct["error"]
    assert metrics["combined_score"] == 0.0
    assert correct["error"] in metrics["text_feedback"]
    assert "return" in metrics["text_feedback"]


def test_a_refusal_in_json(command, program):
    status, out, _ = command("--json", program=program("import torch\n"))
    assert status == 1
    printed = json.loads(out)
    assert printed["correct"] is False
    assert printed["combined_score"] == 0.0


def test_random_numbers_without_a_seed_are_refused(command, program):
    """And the message says where the answers differ."""
    random = seed_with(
        "import time\n\ndef run_eplb(weight, *sizes):\n"
        "    torch.manual_seed(time.perf_counter_ns())\n"
        "    return seed(torch.rand(weight.shape), *sizes)"
    )
    status, out, _ = command(program=program(random))
    assert status == 1
    assert "window 0: layer 0, slot " in out
    assert "random numbers need a fixed seed" in " ".join(out.split())
    seeded = random.replace("time.perf_counter_ns()", "1")
    assert command(program=program(seeded))[0] == 0


MISUSE = [
    (["--repeats=0"], "--repeats: 0 is not a whole number of at least 1"),
    (["--num_gpus=-4"], "--num_gpus: -4 is not a whole number"),
    (["--num_nodes=1.5"], "--num_nodes: 1.5 is not a whole number"),
    (["--rebalance_interval=0"], "--rebalance_interval: 0 is not"),
    (["--timeout=0"], "--timeout: 0 is not a positive number of seconds"),
    (["--locality=maybe"], "--locality"),
    (["--scoring=mine"], "--scoring"),
    (["--program_path=no/such/file.py"], "there is no program no/such/file.py"),
    (["--trace=no/such/trace.json"], "no/such/trace.json"),
    (["--rebalance_interval=7"], "12 records make 1 whole window"),
    (["--num_replicas=18"], "num_replicas 18 is not a multiple of num_gpus 4"),
    (["--num_gpus=5"], "num_replicas 16 is not a multiple of num_gpus 5"),
    (["--num_nodes=3"], "num_gpus 4 is not a multiple of num_nodes 3"),
    (["--num_groups=5"], "num_groups 5 does not divide the 12 experts"),
    (["--num_replicas=16", "--trace="], "--trace: it is empty"),
    (["--fresh=0"], "--fresh: 0 is not a whole number of at least 1"),
    (["--num_groups=3", "--locality=require"], "num_groups 3 is not a multiple of num_nodes 2"),
]


@pytest.mark.parametrize(("arguments", "message"), MISUSE, ids=[" ".join(a) for a, _ in MISUSE])
def test_the_users_mistakes_are_one_line_and_leave_no_score(arguments, message, command, tmp_path):
    leave_stale_results(tmp_path / "results")
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    # ShinkaEvolve ignores the exit status and would take the earlier program's score.
    assert not (tmp_path / "results" / "metrics.json").exists()
    correct = json.loads((tmp_path / "results" / "correct.json").read_text())
    assert correct["correct"] is False
    assert message in correct["error"]
    assert (tmp_path / "results" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "{", '{"load_history": [3]}'])
def test_an_unusable_trace_never_scores(text, command, tmp_path):
    trace = tmp_path / "broken.json"
    trace.write_text(text)
    status, _, err = command("--trace", trace)
    assert status == 2
    assert err.count("\n") == 1
    assert "broken.json" in err
    assert not (tmp_path / "results" / "metrics.json").exists()


def test_a_results_folder_that_cannot_be_written(command, tmp_path):
    (tmp_path / "file").write_text("mine")
    status, _, err = command("--results_dir", tmp_path / "file" / "results")
    assert status == 2
    assert "choose another with --results_dir" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_links_in_a_circle_are_told_of(command, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "Sandbox", Sandbox)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for argument in ("--trace", "--results_dir", "--program_path"):
        status, _, err = command(argument, tmp_path / "circle")
        assert (status, err.count("\n")) == (2, 1)
        assert f"{tmp_path / 'circle'}" in err


def test_an_empty_results_folder_touches_none(command, tmp_path):
    leave_stale_results(tmp_path / "results")
    status, _, err = command("--results_dir", "")
    assert status == 2
    assert err.startswith("error: argument --results_dir: it is empty")
    assert results(tmp_path / "results")[0]["combined_score"] == 0.99
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_fresh_traces(command, tmp_path, monkeypatch, trace):
    monkeypatch.setattr(fresh, "FRESH_PRESETS", ("tiny",))
    monkeypatch.setattr(fresh, "Sandbox", evaluation.Sandbox)
    status, out, _ = command("--repeats=1", "--fresh=2")
    assert status == 0
    told = results(tmp_path / "results")[0]["private"]["fresh"]
    assert [one["trace"] for one in told["scores"]] == ["tiny", "tiny"]
    assert len({one["seed"] for one in told["scores"]}) == 2
    assert "on fresh traces" in out
    # The command to go on with carries the trace and the sizes.
    following = out.split("next:\n  ")[1].strip()
    assert following == " ".join(
        [
            f"python run_evo.py evo_config.init_program_path={SEED} trace={trace}",
            *(f"+distributed_job_config.extra_cmd_args.{size[2:]}" for size in SHAPE),
            "+distributed_job_config.extra_cmd_args.repeats=1",
        ]
    )


def run_as_user(*arguments, **kwargs):
    line = [sys.executable, project_file("evaluate.py"), *map(str, arguments)]
    return subprocess.run(line, text=True, **kwargs)


def test_as_a_user_runs_it_from_any_folder(trace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_as_user("--program_path", SEED, "--trace", trace, *SHAPE, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert results(tmp_path / "results")[1]["correct"] is True


def test_wrong_arguments_and_help_touch_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_as_user(capture_output=True)
    assert done.returncode == 2
    assert done.stderr == (
        "error: the following arguments are required: --program_path; see evaluate.py --help\n"
    )
    assert run_as_user("--help", capture_output=True).returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("earlier", [False, True])
def test_an_interruption_leaves_no_empty_folder(command, monkeypatch, tmp_path, earlier):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "score", interrupted)
    if earlier:
        (tmp_path / "results").mkdir()
        (tmp_path / "results" / "notes.txt").touch()
    status, out, err = command()
    assert (status, out, err) == (130, "", "interrupted\n")
    assert (tmp_path / "results").exists() == earlier

"""How commands begin and end: `pytest tests/test_common.py`."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from pathlib import Path

import pytest

from eplb import common
from eplb.common import (
    ArgumentParser,
    UserError,
    output_argument,
    path_argument,
    plot_argument,
    positive_int,
    positive_seconds,
    progress_bar,
    project_file,
)

RUN = "from eplb.common import *; exit_on_user_error(lambda: print('x' * 10**6) or 0)"

HELP = (
    "import sys; from eplb.common import *; sys.argv.append('--help'); "
    "exit_on_user_error(lambda: ArgumentParser().parse_args())"
)
ROOT = Path(__file__).parents[1]
SCRIPTS = [path.name for path in ROOT.glob("*.py") if "exit_on_user_error" in path.read_text()]


def run(code, stdout):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=project_file("initial.py").parent,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("code", [RUN, RUN.replace("10**6", "1"), HELP])
def test_a_full_disk_is_one_line(code):
    with open("/dev/full", "w") as full:
        done = run(code, full)
    assert done.returncode == 2
    assert done.stderr == ("error: cannot write the output: No space left on device; make room\n")


def test_options_are_written_out():
    parser = ArgumentParser()
    parser.add_argument("--num_gpus")
    with pytest.raises(UserError, match="unrecognized arguments: --num_gpu "):
        parser.parse_args(["--num_gpu", "8"])


def test_an_error_is_one_line_whatever_its_text():
    raising = "(_ for _ in ()).throw(UserError('a\\n  b'))"
    code = f"from eplb.common import *; exit_on_user_error(lambda: {raising})"
    done = run(code, subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (2, "error: a b\n")


def test_wrong_arguments_are_the_users_error_without_the_usage():
    parser = ArgumentParser(prog="it")
    parser.add_argument("--count", type=positive_int)
    with pytest.raises(
        UserError, match="^argument --count: 0 is not a whole number.*see it --help"
    ):
        parser.parse_args(["--count", "0"])


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (positive_int, "7", ["0", "-1", "1.5", "", "x", "²", "1e3"]),
        (positive_seconds, "0.5", ["0", "-1", "nan", "inf", "", "x"]),
        (path_argument, "a/b", ["", "  ", 300 * "x"]),
        (output_argument, "a/b", ["", "  "]),
        (plot_argument, "a/b.svg", ["", "a/b", "a/b.foo", "a/.png"]),
    ],
)
def test_types_of_arguments(kind, good, bad):
    assert str(kind(good)) == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError):
            kind(text)


@pytest.mark.parametrize("kind", [output_argument, plot_argument])
def test_outputs_that_cannot_be_written_are_refused_before_the_work(kind, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for name in ("file/a.png", "folder.png", "/proc/a.png", "/proc/none/a.png"):
        with pytest.raises(UserError, match=f"{name}.*(choose another folder|name a file)"):
            kind(str(tmp_path / name))
    assert str(kind(str(tmp_path / "new" / "a.png"))) == str(tmp_path / "new" / "a.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


def test_progress_is_drawn_on_a_terminal_only(monkeypatch, capsys):
    with progress_bar("evaluating") as progress:
        progress(0.5)
    assert capsys.readouterr().err == ""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar("evaluating") as progress:
        progress(0.5)
        progress(1.0)
    assert "evaluating" in terminal.getvalue()


@pytest.mark.parametrize("command", [*SCRIPTS, "-meplb.report", "-meplb.bench.leaderboard"])
def test_a_command_without_its_packages_says_how_to_get_them(command):
    """`python3 evaluate.py` outside of the environment; -S leaves all packages out."""
    line = [sys.executable, "-S", command, "key=value"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"pip install -e {ROOT}\n" in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_other_peoples_tracebacks_stay_as_they_are():
    done = run("import eplb; import no_such_package", subprocess.DEVNULL)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")


def test_a_run_without_a_home_is_one_line():
    """`HOME=/dev/null run_evo.py`"""
    done = subprocess.run(
        [sys.executable, "run_evo.py", "evo_config.num_generations=1"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": "/dev/null"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "set HOME to" in done.stderr


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_stream_changes_no_exit_status(closed):
    """`python evaluate.py … >&-`"""
    for code, status in (("print(1) or 0", 0), ("(_ for _ in ()).throw(UserError('no'))", 2)):
        script = f"from eplb.common import *; exit_on_user_error(lambda: {code})"
        line = ["bash", "-c", f'"$0" -c "$1" {closed}>&-', sys.executable, script]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == status
        assert "Traceback" not in done.stderr


def test_project_files_are_found_in_the_source_tree_then_in_the_wheel(tmp_path, monkeypatch):
    wheel = tmp_path / "_task"
    wheel.mkdir()
    (wheel / "initial.py").touch()
    (wheel / "extra.py").touch()
    monkeypatch.setattr(common, "WHEEL_DATA", wheel)
    assert common.project_file("initial.py") == common.SOURCE_TREE / "initial.py"
    assert common.project_file("extra.py") == wheel / "extra.py"
    monkeypatch.setattr(common, "SOURCE_TREE", tmp_path)
    assert common.project_file("initial.py") == wheel / "initial.py"
    with pytest.raises(UserError, match="nosuch.json is missing"):
        common.project_file("nosuch.json")

"""What is made of the folder of a killed run. Whole runs are killed in test_run.py.

Run it with `pytest tests/evolution/test_resume.py`.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shinka.database import DatabaseConfig, Program, ProgramDatabase

from eplb.common import UserError
from eplb.evolution import resume
from eplb.evolution.resume import hold


def make_run(folder, generations, leftovers=()):
    """A results folder with a row and a folder per generation, and folders without a row."""
    config = DatabaseConfig(db_path=str(folder / "programs.sqlite"), num_islands=2)
    database = ProgramDatabase(config, embedding_model=None)
    for generation in generations:
        results = folder / f"gen_{generation}" / "results"
        results.mkdir(parents=True)
        code = f"# written as generation {generation}\n"
        (results.parent / "main.py").write_text(code)
        metadata = {
            "source_job_id": f"ProcessWithLogging(PID: {generation % 3})",
            "source_generation": generation,
            "failure_json_path": str(results / "failure.json"),
            "api_costs": 0.5 if generation else 0.0,
        }
        database.add(
            Program(
                id=f"id-{generation}",
                code=code,
                generation=generation,
                correct=True,
                combined_score=generation / 100,
                metadata=metadata,
            )
        )
    for generation in leftovers:
        (folder / f"gen_{generation}" / "results").mkdir(parents=True, exist_ok=True)
    database.close()


def rows(folder):
    with closing(sqlite3.connect(folder / "programs.sqlite")) as database:
        return database.execute(
            "SELECT generation, code, metadata FROM programs ORDER BY generation, id"
        ).fetchall()


def folders(folder):
    return sorted(int(path.name[4:]) for path in folder.glob("gen_*"))


def check_fit_to_go_on(folder, generations):
    """0 … n without a gap, in the old order, each with its own folder."""
    found = rows(folder)
    assert [row[0] for row in found] == [0, *range(len(generations))]
    assert folders(folder) == list(range(len(generations)))
    for (number, code, metadata), old in zip(found[1:], generations, strict=True):
        assert code == f"# written as generation {old}\n"
        assert (folder / f"gen_{number}" / "main.py").read_text() == code
        metadata = json.loads(metadata)
        assert metadata["source_generation"] == number
        assert f"/gen_{number}/" in metadata["failure_json_path"]
    ids = [json.loads(row[2])["source_job_id"] for row in found]
    assert len(set(ids)) == len(ids)
    config = DatabaseConfig(db_path=str(folder / "programs.sqlite"), num_islands=2)
    database = ProgramDatabase(config, embedding_model=None)
    assert database.last_iteration == len(generations) - 1
    database.close()


@given(
    done=st.sets(st.integers(1, 9), min_size=1),
    leftovers=st.sets(st.integers(0, 11)),
    killed_at=st.integers(0, 12),
)
@settings(max_examples=15, deadline=None)
def test_gaps_close_and_leftovers_go_even_when_killed_meanwhile(
    tmp_path_factory, done, leftovers, killed_at
):
    folder = tmp_path_factory.mktemp("run")
    generations = [0, *sorted(done)]
    make_run(folder, generations, leftovers - set(generations))
    with pytest.MonkeyPatch.context() as patch:
        steps = iter(range(100))

        def killed(function):
            def call(*arguments, **options):
                if next(steps) == killed_at:
                    raise KeyboardInterrupt
                return function(*arguments, **options)

            return call

        for name in ("copytree", "rmtree"):
            patch.setattr(resume.shutil, name, killed(getattr(resume.shutil, name)))
        try:
            resume.prepare(folder, num_islands=2)
        except KeyboardInterrupt:
            pass
    assert resume.prepare(folder, num_islands=2) == len(generations)
    check_fit_to_go_on(folder, generations)


@pytest.mark.parametrize("generations", [[], [0]])
def test_a_run_with_nothing_but_the_seed_starts_afresh(tmp_path, generations):
    make_run(tmp_path, generations, leftovers=[0, 1])
    assert resume.prepare(tmp_path, num_islands=2) == 0
    assert not list(tmp_path.glob("programs.sqlite*"))
    assert folders(tmp_path) == []


def test_a_folder_without_a_database_is_cleared(tmp_path):
    (tmp_path / "gen_0" / "results").mkdir(parents=True)
    (tmp_path / "gen_notes.txt").touch()
    assert resume.prepare(tmp_path, num_islands=2) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["gen_notes.txt"]


def test_an_empty_database_starts_afresh(tmp_path):
    (tmp_path / "programs.sqlite").touch()
    assert resume.prepare(tmp_path, num_islands=2) == 0


def test_islands_cannot_change(tmp_path):
    make_run(tmp_path, [0, 1])
    with pytest.raises(UserError, match="2 islands, not 3; add db_config.num_islands=2"):
        resume.prepare(tmp_path, num_islands=3)


def test_orphans_of_this_folder_only_are_ended(tmp_path):
    sleep = [sys.executable, "-c", "import time; time.sleep(60)", "--results_dir"]
    ours = subprocess.Popen([*sleep, f"{tmp_path}/gen_3/results"])
    other = subprocess.Popen([*sleep, f"{tmp_path}-other/gen_3/results"])
    reader = subprocess.Popen([*sleep[:3], f"{tmp_path}/gen_3/main.py"])
    try:
        resume.end_evaluations(tmp_path)
        ours.wait(10)  # long before it would end by itself
        assert other.poll() is None and reader.poll() is None
    finally:
        for process in (ours, other, reader):
            process.kill()
            process.wait()


def test_an_orphan_that_ends_by_itself_meanwhile(tmp_path, monkeypatch):
    words = [sys.executable, "-c", "input()", "--results_dir", f"{tmp_path}/gen_3/results"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as orphan:
        found = psutil.Process(orphan.pid)

        def cmdline():
            orphan.communicate(b"go\n")
            return words

        monkeypatch.setattr(found, "cmdline", cmdline)
        monkeypatch.setattr(psutil, "process_iter", lambda: [found])
        resume.end_evaluations(tmp_path)
    assert orphan.returncode == 0


def test_one_run_at_a_time(tmp_path):
    lock = hold(tmp_path)
    with pytest.raises(UserError, match="another run"):
        hold(tmp_path)
    lock.close()
    hold(tmp_path).close()

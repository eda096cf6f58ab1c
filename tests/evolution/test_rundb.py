"""Reading a results folder that ShinkaEvolve's own database code has written.

Run it with `pytest tests/evolution/test_rundb.py`.
"""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from shinka.database import DatabaseConfig, ProgramDatabase

from eplb.common import UserError
from eplb.evolution.rundb import read_run


def their_programs(folder: Path) -> dict:
    """All programs as ShinkaEvolve itself reads them."""
    config = DatabaseConfig(db_path=str(folder / "programs.sqlite"))
    database = ProgramDatabase(config, embedding_model="", read_only=True)
    programs = {p.id: p for p in database.get_all_programs()}
    database.close()
    return programs


def test_every_field_is_what_shinka_reads(finished_run: Path, tmp_path: Path) -> None:
    theirs = their_programs(shutil.copytree(finished_run, tmp_path / "copy"))
    ours = {p.id: p for p in read_run(finished_run).programs}
    assert ours.keys() == theirs.keys() and len(ours) == 32
    for identity, mine in ours.items():
        other = theirs[identity]
        assert (mine.code, mine.parent_id) == (other.code, other.parent_id)
        assert (mine.generation, mine.correct) == (other.generation, other.correct)
        assert mine.score == (other.combined_score if other.correct else None)
        assert (mine.metadata, mine.feedback) == (other.metadata, other.text_feedback.strip())


def test_proposals_that_were_given_up(finished_run: Path) -> None:
    run = read_run(finished_run)
    assert [(f.generation, f.model) for f in run.failed_proposals] == [(31, "model-1")]
    assert not run.unfinished and not run.damaged


def test_reading_leaves_the_folder_as_it_was(finished_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    read_run(finished_run)
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == before


def test_reads_while_a_run_is_writing(recorder) -> None:
    run = recorder()
    run.add(0, combined_score=0.25)
    writer = run.database.conn
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE programs SET combined_score = 0.5")
    seen = read_run(run.folder)
    assert seen.unfinished
    assert {p.score for p in seen.programs} == {0.25}, "what is not committed is not there yet"
    writer.commit()
    assert {p.score for p in read_run(run.folder).programs} == {0.5}


def test_scores_that_are_no_numbers_count_as_missing(recorder) -> None:
    run = recorder(num_islands=1)
    for generation, score in enumerate([0.5, float("inf"), float("nan"), 0.1]):
        run.add(generation, combined_score=score)
    assert [p.score for p in read_run(run.folder).programs] == [0.5, None, None, 0.1]


@pytest.mark.parametrize("content", ["{", "7", '"text"', "[" * 100_000])
def test_damaged_fields_are_counted(recorder, content: str) -> None:
    run = recorder(num_islands=1)
    run.add(0, combined_score=0.5)
    run.database.conn.execute("UPDATE programs SET metadata = ?", (content,))
    run.database.conn.commit()
    seen = read_run(run.folder)
    assert seen.damaged == 1 and seen.programs[0].score == 0.5


def test_text_that_is_not_utf8(recorder) -> None:
    run = recorder(num_islands=1)
    run.add(0)
    run.database.conn.execute("UPDATE programs SET code = CAST(x'61ff62' AS TEXT)")
    run.database.conn.commit()
    assert read_run(run.folder).programs[0].code == "a\ufffdb"


def refuse(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as refused:
        read_run(folder)
    for word in words:
        assert word in str(refused.value)


def test_folders_that_are_no_results(tmp_path: Path, recorder) -> None:
    refuse(tmp_path / "nowhere", "nowhere", "does not exist")
    (tmp_path / "file").write_text("")
    refuse(tmp_path / "file", "not a folder")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", "no programs.sqlite", "not a results folder")
    recorder("inner").add(0)
    refuse(tmp_path, "such as", str(tmp_path / "inner"))


def test_databases_that_are_none(tmp_path: Path, recorder) -> None:
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise/programs.sqlite").write_bytes(b"not a database at all" * 400)
    refuse(tmp_path / "noise", "programs.sqlite", "not a database")
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero/programs.sqlite").touch()
    refuse(tmp_path / "zero", "no such table")
    (tmp_path / "other").mkdir()
    with sqlite3.connect(tmp_path / "other/programs.sqlite") as other:
        other.execute("CREATE TABLE programs (id TEXT)")
    refuse(tmp_path / "other", "no such column")
    refuse(recorder().folder, "holds no program yet", "wait")


def test_truncated_database(finished_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "copy")
    whole = (folder / "programs.sqlite").read_bytes()
    (folder / "programs.sqlite").write_bytes(whole[: len(whole) // 2])
    refuse(folder, "programs.sqlite")


def test_numbers_of_the_wrong_type(recorder) -> None:
    run = recorder(num_islands=1)
    for generation in range(30):
        run.add(generation)
    for column in ("generation", "correct"):
        run.database.conn.execute(f"UPDATE programs SET {column} = 'zero'")
        run.database.conn.commit()
        refuse(run.folder, "programs.sqlite", "zero")
    with pytest.raises(UserError) as refused:
        read_run(run.folder)
    assert len(str(refused.value)) < 600, "one line, however many rows are wrong"


def test_a_folder_whose_name_sqlite_would_read_otherwise(
    finished_run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "a?mode=rw#b%20c")
    assert len(read_run(folder).programs) == 32
    assert not list(tmp_path.glob("a")), "SQLite would create a file for the part before the mark"


def test_best_is_what_shinka_calls_best(recorder) -> None:
    run = recorder()
    seed = run.add(0, combined_score=0.1)
    for generation, score in enumerate([0.3, 0.7, 0.2], start=1):
        run.add(generation, seed, combined_score=score)
    run.add(4, seed, combined_score=0.9, correct=False)
    best = read_run(run.folder).best
    assert best.id == run.database.get_best_program().id and best.score == 0.7
    run.add(5, seed, combined_score=0.7)
    assert read_run(run.folder).best == best, "the earliest of equals"


def test_a_score_without_bound_is_not_best(recorder) -> None:
    run = recorder()
    seed = run.add(0, combined_score=0.1)
    run.add(1, seed, combined_score=float("inf"))
    run.add(2, seed, combined_score=0.3)
    assert read_run(run.folder).best.generation == 2


def test_no_best_where_nothing_is_correct(recorder) -> None:
    run = recorder()
    run.add(0, correct=False)
    seen = read_run(run.folder)
    assert seen.best is None and seen.seed.generation == 0


def test_seed_is_not_one_of_its_copies(finished_run: Path) -> None:
    run = read_run(finished_run)
    seeds = [p for p in run.programs if p.generation == 0]
    assert len(seeds) == 2 and sum(p.is_copy for p in seeds) == 1
    assert run.seed in seeds and not run.seed.is_copy


def test_cost_counts_every_purpose_and_no_copy(recorder) -> None:
    run = recorder()
    names = ("api_costs", "embed_cost", "novelty_cost", "meta_cost")
    seed = run.add(0, metadata={"meta_cost": 4.0})  # and a copy of it on the second island
    run.add(1, seed, metadata=dict(zip(names, (0.5, 0.25, 0.125, None), strict=True)))
    run.database.record_attempt_event(2, "proposal", "failed", {"api_costs": 0.0625})
    run.database.record_attempt_event(2, "proposal", "started", {"api_costs": 8.0})
    assert read_run(run.folder).cost == 4.9375

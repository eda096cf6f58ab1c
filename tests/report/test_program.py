"""A program as the report reads it: `pytest tests/report/test_program.py`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from eplb.report.program import Migration, read
from tests.evolution.test_rundb import their_programs
from tests.report.by_hand import program


def test_every_field_is_what_shinka_reads(finished_run: Path, tmp_path: Path) -> None:
    theirs = their_programs(shutil.copytree(finished_run, tmp_path / "copy"))
    ours = {p.id: p for p in read(finished_run).programs}
    assert ours.keys() == theirs.keys()
    for identity, mine in ours.items():
        other = theirs[identity]
        assert (mine.code, mine.metadata) == (other.code, other.metadata)
        assert (mine.timestamp, mine.public) == (other.timestamp, other.public_metrics)
        assert mine.inspirations == tuple(
            dict.fromkeys(other.archive_inspiration_ids + other.top_k_inspiration_ids)
        )
        assert mine.island == other.island_idx
        moves = [(m["generation"], m["from"], m["to"]) for m in other.migration_history]
        assert [(m.generation, m.source, m.target) for m in mine.migrations] == moves
    assert any(p.migrations for p in ours.values()), "the run must have migrated"


def test_numbers_that_are_none_count_as_missing(recorder) -> None:
    run = recorder(num_islands=1)
    run.add(0, public_metrics={"balancedness_score": 0.8, "call_ms": 2})
    run.add(1, public_metrics={"call_ms": float("nan")})
    run.add(2, public_metrics={"call_ms": -1})
    run.add(3, public_metrics={"call_ms": "fast", "balancedness_score": True})
    programs = read(run.folder).programs
    assert [p.milliseconds for p in programs] == [2.0, None, None, None]
    assert [p.balancedness for p in programs] == [0.8, None, None, None]


@pytest.mark.parametrize("column", ["public_metrics", "migration_history"])
@pytest.mark.parametrize("content", ["{", "7", '"text"', "[" * 100_000])
def test_damaged_fields_are_counted(recorder, column: str, content: str) -> None:
    run = recorder(num_islands=1)
    run.add(0, combined_score=0.5)
    run.database.conn.execute(f"UPDATE programs SET {column} = ?", (content,))
    run.database.conn.commit()
    seen = read(run.folder)
    assert seen.damaged == 1 and seen.programs[0].score == 0.5


def test_where_a_program_lived_and_when() -> None:
    moves = (Migration(4, 2, 0, 4.0), Migration(8, 0, 1, 8.0))
    wanderer = program("w", island=1, migrations=moves)
    assert [wanderer.island_at(t) for t in (1.0, 4.0, 7.9, 8.0)] == [2, 0, 0, 1]
    assert wanderer.birth_island == 2

"""Reading a results folder of ShinkaEvolve, also while the run is going on.

Read: the database ``programs.sqlite`` (tables programs and attempt_log), and of each
``gen_<generation>`` folder the reason of a failed evaluation (``results/correct.json``) and the
edits that could not be applied (``attempts/…/metadata.json``). Nothing in the folder is changed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eplb.common import UserError
from eplb.report.program import FailedEdit, FailedProposal, Migration, Program, finite, text

DATABASE = "programs.sqlite"
# A run that is being written to may hold the database for a moment, never for long.
PATIENCE_SECONDS = 10
LARGEST_SIDE_FILE = 1 << 20

PROGRAMS = """
    SELECT id, code, parent_id, archive_inspiration_ids, top_k_inspiration_ids, generation,
           timestamp, correct, combined_score, public_metrics, text_feedback, metadata, island_idx,
           migration_history
    FROM programs ORDER BY generation, timestamp, rowid
"""
TRACKED_BEST = "SELECT value FROM metadata_store WHERE key = 'best_program_id'"
FAILED_PROPOSALS = """
    SELECT generation, stage, details FROM attempt_log
    WHERE status = 'failed' ORDER BY generation, id
"""


@dataclass(frozen=True)
class Run:
    """What a results folder holds.

    programs: in order of generation
    tracked_best: the id of the program that ShinkaEvolve calls best
    reasons: why a generation's evaluation failed, by generation
    unfinished: the database has a write-ahead log: the run is going on, or was interrupted
    damaged: JSON fields of the database that could not be read and count as empty
    """

    folder: Path
    programs: tuple[Program, ...]
    tracked_best: str | None
    failed_proposals: tuple[FailedProposal, ...]
    failed_edits: tuple[FailedEdit, ...]
    reasons: dict[int, str]
    unfinished: bool
    damaged: int


def read_run(folder: Path) -> Run:
    """Read a results folder. Raises `UserError` where it is not one, or holds no program yet."""
    database = find_database(folder)
    log = database.with_name(f"{DATABASE}-wal")
    unfinished = log.exists() and log.stat().st_size > 0
    parser = _Parser()
    try:
        with _snapshot(database) as connection:
            programs = tuple(parser.program(row) for row in connection.execute(PROGRAMS))
            tracked = connection.execute(TRACKED_BEST).fetchone()
            proposals = tuple(parser.proposal(row) for row in connection.execute(FAILED_PROPOSALS))
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise UserError(
            f"cannot read {database} as a database of ShinkaEvolve ({error}); "
            "give the results folder of a run, or restore the file from a backup"
        ) from error
    if not programs:
        raise UserError(
            f"{database} holds no program yet; wait until the seed program has been evaluated"
        )
    failed = {p.generation for p in programs if not p.correct}
    return Run(
        folder=folder,
        programs=programs,
        tracked_best=tracked["value"] if tracked else None,
        failed_proposals=proposals,
        failed_edits=tuple(_failed_edits(folder)),
        reasons={generation: _reason(folder, generation) for generation in failed},
        unfinished=unfinished,
        damaged=parser.damaged,
    )


def find_database(folder: Path) -> Path:
    """The database in a results folder. Raises `UserError` with a way out where there is none."""
    if not folder.exists():
        raise UserError(f"{folder} does not exist; give the results folder of a run")
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the results folder of a run")
    database = folder / DATABASE
    if database.is_file():
        return database
    below = sorted(path.parent for path in folder.glob(f"*/{DATABASE}"))
    below += sorted(path.parent for path in folder.glob(f"*/*/{DATABASE}"))
    if below:
        raise UserError(
            f"{folder} has no {DATABASE}, but {len(below)} results folders lie below it; "
            f"give one of them, such as {below[-1]}"
        )
    raise UserError(
        f"{folder} has no {DATABASE}, so it is not a results folder of ShinkaEvolve; "
        "give the folder that the run named when it began"
    )


@contextmanager
def _snapshot(database: Path) -> Iterator[sqlite3.Connection]:
    """One consistent, read-only view of the database, whatever a run writes meanwhile."""
    uri = f"file:{quote(str(database.absolute()))}?mode=ro"
    if not database.with_name(f"{DATABASE}-wal").exists():
        # Nobody has it open. Without this, SQLite leaves a -wal and a -shm file behind, and cannot
        # read at all in a folder that it may not write to.
        uri += "&immutable=1"
    with closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE_SECONDS)) as connection:
        connection.row_factory = sqlite3.Row
        connection.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
        connection.execute("BEGIN")
        yield connection


class _Parser:
    """Turns rows into programs, and counts the JSON fields that could not be read."""

    def __init__(self) -> None:
        self.damaged = 0

    def json(self, field: str | None, kind: type) -> Any:
        """A JSON field as ``kind`` (dict or list); empty where it is missing or damaged."""
        if not field:
            return kind()
        try:
            value = json.loads(field)
        except (TypeError, ValueError, RecursionError):
            value = None
        if isinstance(value, kind):
            return value
        self.damaged += 1
        return kind()

    def program(self, row: sqlite3.Row) -> Program:
        correct = bool(row["correct"])
        island = row["island_idx"]
        inspirations = self.json(row["archive_inspiration_ids"], list)
        inspirations += self.json(row["top_k_inspiration_ids"], list)
        return Program(
            id=str(row["id"]),
            code=str(row["code"]),
            parent_id=row["parent_id"] or None,
            inspirations=tuple(dict.fromkeys(i for i in inspirations if isinstance(i, str))),
            generation=int(row["generation"]),
            timestamp=float(row["timestamp"]),
            correct=correct,
            score=finite(row["combined_score"]) if correct else None,
            public=self.json(row["public_metrics"], dict),
            feedback=text(row["text_feedback"]),
            metadata=self.json(row["metadata"], dict),
            island=0 if island is None else int(island),
            migrations=tuple(self._migrations(row["migration_history"])),
        )

    def _migrations(self, field: str | None) -> Iterator[Migration]:
        for move in self.json(field, list):
            try:
                yield Migration(
                    generation=int(move["generation"]),
                    source=int(move["from"]),
                    target=int(move["to"]),
                    timestamp=float(move["timestamp"]),
                )
            except (KeyError, TypeError, ValueError):
                self.damaged += 1

    def proposal(self, row: sqlite3.Row) -> FailedProposal:
        details = self.json(row["details"], dict)
        return FailedProposal(int(row["generation"]), str(row["stage"]), details)


def _reason(folder: Path, generation: int) -> str:
    """Why the evaluation of ``generation`` failed, as the evaluation itself says it."""
    return text(_side_file(folder / f"gen_{generation}" / "results" / "correct.json").get("error"))


def _failed_edits(folder: Path) -> Iterator[FailedEdit]:
    """The models' answers that could not be applied, in no particular order."""
    for path in folder.glob("gen_*/attempts/*/*/*/metadata.json"):
        attempt = _side_file(path)
        generation = finite(attempt.get("generation"))
        if attempt.get("success") is False and generation is not None:
            yield FailedEdit(int(generation), text(attempt.get("error_msg")))


def _side_file(path: Path) -> dict[str, Any]:
    """A small JSON file beside the database; empty where it is missing or not whole (yet)."""
    try:
        if path.stat().st_size > LARGEST_SIDE_FILE:
            return {}
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}

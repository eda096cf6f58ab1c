"""The one reader of a run's ``programs.sqlite``, also while the run is writing to it.

Covered: the programs and the proposals that were given up, which program is best, and what the run
cost. Not covered: files beside the database. Everything in it was written by a language model or by
an evaluated program: numbers are taken where they are finite numbers, text where it is text.
Nothing in the folder is changed or created.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eplb.common import UserError

DATABASE = "programs.sqlite"
# A run that is being written to may hold the database for a moment, never for long.
PATIENCE_SECONDS = 10
# What ShinkaEvolve notes beside each program and each proposal that it gave up, in US dollars.
COSTS = {
    "api_costs": "edits",
    "novelty_cost": "novelty checks",
    "embed_cost": "embeddings",
    "meta_cost": "summaries and advice",
}

_PROGRAMS = """
    SELECT id, code, parent_id, archive_inspiration_ids, top_k_inspiration_ids, generation,
           timestamp, correct, combined_score, public_metrics, text_feedback, metadata, island_idx,
           migration_history
    FROM programs ORDER BY generation, timestamp, rowid
"""
_FAILED_PROPOSALS = """
    SELECT generation, stage, details FROM attempt_log
    WHERE status = 'failed' ORDER BY generation, id
"""


def finite(value: Any) -> float | None:
    """``value`` as a float where it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def text(value: Any) -> str:
    """``value`` where it is text, else the empty string."""
    return value.strip() if isinstance(value, str) else ""


def costs(details: dict[str, Any]) -> dict[str, float]:
    """US dollars by purpose, of a program's metadata or a given-up proposal's details."""
    return {purpose: finite(details.get(key)) or 0.0 for key, purpose in COSTS.items()}


@dataclass(frozen=True)
class Migration:
    """A program moved from one island to another."""

    generation: int
    source: int
    target: int
    timestamp: float


@dataclass(frozen=True)
class Program:
    """One row of the programs table.

    score: the combined score; None unless the program is correct and its score is finite
    island: where the program lives now; `birth_island` is where it was made
    """

    id: str
    code: str
    parent_id: str | None
    inspirations: tuple[str, ...]
    generation: int
    timestamp: float
    correct: bool
    score: float | None
    public: dict[str, Any]
    feedback: str
    metadata: dict[str, Any]
    island: int
    migrations: tuple[Migration, ...]

    is_seed = property(lambda self: self.generation == 0 and self.parent_id is None)
    description = property(lambda self: text(self.metadata.get("patch_description")))
    edit = property(lambda self: text(self.metadata.get("patch_type")))
    model = property(lambda self: text(self.metadata.get("model_name")))

    @cached_property
    def name(self) -> str:
        return text(self.metadata.get("patch_name")) or f"program of generation {self.generation}"

    @cached_property
    def is_copy(self) -> bool:
        """Whether ShinkaEvolve made it from another program of the database, to found an island."""
        return bool(self.metadata.get("_is_island_copy") or self.metadata.get("_spawned_island"))

    @property
    def balancedness(self) -> float | None:
        return finite(self.public.get("balancedness_score")) if self.correct else None

    @property
    def milliseconds(self) -> float | None:
        """Time of one call; None where it is missing or not positive."""
        value = finite(self.public.get("call_ms")) if self.correct else None
        return value if value is not None and value > 0 else None

    @property
    def began(self) -> float:
        """When its parent and inspirations were chosen, in seconds since the epoch."""
        started = finite(self.metadata.get("pipeline_started_at"))
        return self.timestamp if started is None else started

    @property
    def birth_island(self) -> int:
        return self.migrations[0].source if self.migrations else self.island

    def island_at(self, timestamp: float) -> int:
        """The island that the program lived on at ``timestamp``."""
        moves = [move.target for move in self.migrations if move.timestamp <= timestamp]
        return [self.birth_island, *moves][-1]


@dataclass(frozen=True)
class FailedProposal:
    """A generation that never became a program: the model's edits could not be used."""

    generation: int
    stage: str
    details: dict[str, Any]

    model = property(lambda self: text(self.details.get("model_name")))


@dataclass(frozen=True)
class Run:
    """What a run's database holds.

    programs: in order of generation
    unfinished: the database has a write-ahead log: the run is going on, or was interrupted
    damaged: JSON fields of the database that could not be read and count as empty
    """

    folder: Path
    programs: tuple[Program, ...] = ()
    failed_proposals: tuple[FailedProposal, ...] = ()
    unfinished: bool = False
    damaged: int = 0

    @cached_property
    def generations(self) -> int:
        """Generations that became programs, the seed's (generation 0) among them."""
        return len({program.generation for program in self.programs})

    @cached_property
    def seed(self) -> Program | None:
        return next((p for p in self.programs if p.is_seed and not p.is_copy), None)

    @cached_property
    def best(self) -> Program | None:
        """The correct program of the highest finite score, the earliest of equals."""
        scored = (program for program in self.programs if program.score is not None)
        return max(scored, key=lambda program: program.score, default=None)

    @cached_property
    def cost(self) -> float:
        """US dollars of all programs and given-up proposals; copies of a program cost nothing."""
        noted = [program.metadata for program in self.programs if not program.is_copy]
        noted += [proposal.details for proposal in self.failed_proposals]
        return math.fsum(sum(costs(details).values()) for details in noted)


class NoPrograms(UserError):
    """The database holds no program yet."""


def read_run(folder: Path) -> Run:
    """Read a results folder; raises `UserError` where it is none, `NoPrograms` where empty."""
    database, parser = _database_in(folder), _Parser()
    # What SQLite keeps beside a database that is, or was, being written to.
    logs = [database.with_name(f"{DATABASE}{suffix}") for suffix in ("-wal", "-journal")]
    logs = [log for log in logs if log.exists()]
    unfinished = any(log.stat().st_size for log in logs)
    try:
        with _snapshot(database, held=bool(logs)) as connection:
            programs = tuple(map(parser.program, connection.execute(_PROGRAMS)))
            proposals = tuple(map(parser.proposal, connection.execute(_FAILED_PROPOSALS)))
    except (sqlite3.Error, TypeError, ValueError) as error:
        kind = NoPrograms if "no such table" in str(error) else UserError
        way_out = "give the results folder of a run, or restore the file from a backup"
        message = f"cannot read {database} as a database of ShinkaEvolve ({error}); {way_out}"
        raise kind(message) from error
    if not programs:
        raise NoPrograms(f"{database} holds no program yet; wait for the seed's evaluation")
    return Run(folder, programs, proposals, unfinished, parser.damaged)


def read_so_far(folder: Path) -> Run:
    """`read_run`, without any program where none has been stored yet."""
    try:
        return read_run(folder) if (folder / DATABASE).exists() else Run(folder)
    except NoPrograms:
        return Run(folder)


def _database_in(folder: Path) -> Path:
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {state}; give the results folder of a run")
    if (folder / DATABASE).is_file():
        return folder / DATABASE
    below = [*folder.glob(f"*/{DATABASE}"), *folder.glob(f"*/*/{DATABASE}")]
    way_out = f"give one of a run{f', such as {max(below).parent}' if below else ''}"
    raise UserError(f"{folder} has no {DATABASE}, so it is not a results folder; {way_out}")


@contextmanager
def _snapshot(database: Path, held: bool) -> Iterator[sqlite3.Connection]:
    """One consistent, read-only view of the database, whatever a run writes meanwhile.

    held: somebody may have it open. Else SQLite need not lock: it would leave a -wal and a -shm
    file behind, and cannot read at all in a folder that it may not write to.
    """
    # Quoted: SQLite takes `#` and `?` in a URI for its own. Never creating: ShinkaEvolve takes an
    # existing database for a run to resume.
    uri = f"{database.absolute().as_uri()}?mode=ro{'' if held else '&immutable=1'}"
    with closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE_SECONDS)) as connection:
        connection.row_factory = sqlite3.Row
        connection.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
        connection.execute("BEGIN")
        yield connection


class _Parser:
    """Turns rows into programs, and counts the JSON fields that could not be read."""

    damaged = 0

    def json(self, field: str | None, kind: type) -> Any:
        """A JSON field as ``kind`` (dict or list); empty where it is missing or damaged."""
        try:
            value = json.loads(field) if field else kind()
        except (TypeError, ValueError, RecursionError):
            value = None
        if isinstance(value, kind):
            return value
        self.damaged += 1
        return kind()

    def program(self, row: sqlite3.Row) -> Program:
        correct, inspirations = (
            bool(row["correct"]),
            self.json(row["archive_inspiration_ids"], list),
        )
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
            island=int(row["island_idx"] or 0),
            migrations=tuple(self._migrations(row["migration_history"])),
        )

    def _migrations(self, field: str | None) -> Iterator[Migration]:
        for move in self.json(field, list):
            try:
                when, source, target = (int(move[key]) for key in ("generation", "from", "to"))
                yield Migration(when, source, target, float(move["timestamp"]))
            except (KeyError, TypeError, ValueError):
                self.damaged += 1

    def proposal(self, row: sqlite3.Row) -> FailedProposal:
        return FailedProposal(int(row[0]), str(row[1]), self.json(row[2], dict))

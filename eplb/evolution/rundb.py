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
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationInfo, WrapValidator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticUseDefault

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

_PROGRAMS = "SELECT {} FROM programs ORDER BY generation, timestamp, rowid"
_FAILED_PROPOSALS = """
    SELECT generation, details FROM attempt_log WHERE status = 'failed' ORDER BY generation, id
"""


def finite(value: Any) -> float | None:
    """``value`` as a float where it is a finite number, else None."""
    with suppress(OverflowError):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(value) if number and math.isfinite(value) else None


def text(value: Any) -> str:
    """``value`` where it is text, else the empty string."""
    return value.strip() if isinstance(value, str) else ""


def costs(details: dict[str, Any]) -> dict[str, float]:
    """US dollars by purpose, of a program's metadata or a given-up proposal's details."""
    return {purpose: finite(details.get(key)) or 0.0 for key, purpose in COSTS.items()}


def _if_correct(score: Any, info: ValidationInfo) -> float | None:
    return finite(score) if info.data.get("correct") else None


def _or_default(field: Any, check: Any, info: ValidationInfo) -> Any:
    """A JSON field; where it is missing or damaged, which is counted, the field's default."""
    try:
        return check(json.loads(field) if isinstance(field, str) else field)
    except (ValueError, RecursionError):
        if field:
            info.context.append(info.field_name)
        raise PydanticUseDefault from None


JSON = WrapValidator(_or_default)
BY_NAME = ConfigDict(populate_by_name=True)


@dataclass(frozen=True, config=BY_NAME)
class Program:
    """One row of the programs table: of each field the column of its name, or of its alias.

    score: the combined score; None unless the program is correct and its score is finite
    """

    id: str
    code: str
    parent_id: str | None
    generation: int
    correct: bool
    score: Annotated[float | None, BeforeValidator(_if_correct), Field(alias="combined_score")]
    feedback: Annotated[str, BeforeValidator(text), Field(alias="text_feedback")] = ""
    metadata: Annotated[dict, JSON] = Field(default_factory=dict)

    is_seed = property(lambda self: self.generation == 0 and self.parent_id is None)
    model = property(lambda self: text(self.metadata.get("model_name")))

    @property
    def name(self) -> str:
        return text(self.metadata.get("patch_name")) or f"program of generation {self.generation}"

    @property
    def is_copy(self) -> bool:
        """Whether ShinkaEvolve made it from another program of the database, to found an island."""
        return bool(self.metadata.get("_is_island_copy") or self.metadata.get("_spawned_island"))


@dataclass(frozen=True)
class FailedProposal:
    """A generation that never became a program: the model's edits could not be used."""

    generation: int
    details: Annotated[dict, JSON] = Field(default_factory=dict)

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


def read_run(folder: Path, kind: type[Program] = Program) -> Run:
    """Read a results folder, every program as ``kind``.

    Raises `UserError` where it is none, `NoPrograms` where it is empty.
    """
    database, damaged = _database_in(folder), []
    # What SQLite keeps beside a database that is, or was, being written to: -wal or -journal.
    logs = [log.stat().st_size for log in folder.glob(f"{DATABASE}-[wj]*")]
    columns = [field.alias or name for name, field in kind.__pydantic_fields__.items()]
    queries = {kind: _PROGRAMS.format(", ".join(columns)), FailedProposal: _FAILED_PROPOSALS}
    try:
        with _snapshot(database, held=bool(logs)) as connection:
            programs, proposals = (
                TypeAdapter(tuple[each, ...]).validate_python(
                    [dict(row) for row in connection.execute(query)], context=damaged
                )
                for each, query in queries.items()
            )
    except (sqlite3.Error, ValueError) as error:
        what = NoPrograms if "no such table" in str(error) else UserError
        way_out = "give the results folder of a run, or restore the file from a backup"
        told = textwrap.shorten(str(error), 240)
        message = f"cannot read {database} as a database of ShinkaEvolve ({told}); {way_out}"
        raise what(message) from error
    if not programs:
        raise NoPrograms(f"{database} holds no program yet; wait for the seed's evaluation")
    return Run(folder, programs, proposals, any(logs), len(damaged))


def read_so_far(folder: Path) -> Run:
    """`read_run`, without any program where none has been stored yet."""
    with suppress(NoPrograms):
        if (folder / DATABASE).exists():
            return read_run(folder)
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

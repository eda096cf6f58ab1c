"""A program as the page tells of it: beside what every reader of a run needs
(`eplb.evolution.rundb`), its metrics, its islands, and what its model said and was shown.

Not covered: files beside the database (`eplb.report.side_files`).
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from eplb.evolution import rundb
from eplb.evolution.rundb import BY_NAME, JSON, finite, text


@dataclass(frozen=True, config=BY_NAME)
class Migration:
    """A program moved from one island to another."""

    generation: int
    source: Annotated[int, Field(alias="from")]
    target: Annotated[int, Field(alias="to")]
    timestamp: float


@dataclass(frozen=True, config=BY_NAME, kw_only=True)
class Program(rundb.Program):
    """One row of the programs table.

    island: where the program lives now; `birth_island` is where it was made
    """

    timestamp: float
    public: Annotated[dict, JSON, Field(alias="public_metrics")] = Field(default_factory=dict)
    archive_inspiration_ids: Annotated[tuple[str, ...], JSON] = ()
    top_k_inspiration_ids: Annotated[tuple[str, ...], JSON] = ()
    island: Annotated[int, BeforeValidator(lambda i: i or 0), Field(alias="island_idx")] = 0
    migrations: Annotated[tuple[Migration, ...], JSON, Field(alias="migration_history")] = ()

    description = property(lambda self: text(self.metadata.get("patch_description")))
    edit = property(lambda self: text(self.metadata.get("patch_type")))

    @property
    def inspirations(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.archive_inspiration_ids + self.top_k_inspiration_ids))

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


# The run in a results folder, of such programs; raises `UserError` where there is none.
read = partial(rundb.read_run, kind=Program)

"""What a results folder says about one program, one migration, one failed edit.

Everything in it was written by a language model or by an evaluated program. Numbers are taken only
where they are finite numbers, text only where it is text, so that nothing later has to ask again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

# The public metrics that the page plots.
BALANCEDNESS = "balancedness_score"
MILLISECONDS = "call_ms"


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

    @property
    def balancedness(self) -> float | None:
        return finite(self.public.get(BALANCEDNESS)) if self.correct else None

    @property
    def milliseconds(self) -> float | None:
        """Time of one call; None where it is missing or not positive."""
        value = finite(self.public.get(MILLISECONDS)) if self.correct else None
        return value if value is not None and value > 0 else None

    @cached_property
    def is_seed(self) -> bool:
        return self.generation == 0 and self.parent_id is None

    @cached_property
    def is_copy(self) -> bool:
        """Whether ShinkaEvolve made it from another program of the database, to found an island."""
        return bool(self.metadata.get("_is_island_copy") or self.metadata.get("_spawned_island"))

    @cached_property
    def name(self) -> str:
        return text(self.metadata.get("patch_name")) or f"program of generation {self.generation}"

    @cached_property
    def description(self) -> str:
        return text(self.metadata.get("patch_description"))

    @cached_property
    def edit(self) -> str:
        return text(self.metadata.get("patch_type"))

    @cached_property
    def model(self) -> str:
        return text(self.metadata.get("model_name"))

    @cached_property
    def began(self) -> float:
        """When its parent and inspirations were chosen, in seconds since the epoch."""
        started = finite(self.metadata.get("pipeline_started_at"))
        return self.timestamp if started is None else started

    @property
    def birth_island(self) -> int:
        return self.migrations[0].source if self.migrations else self.island

    def island_at(self, timestamp: float) -> int:
        """The island that the program lived on at ``timestamp``."""
        island = self.birth_island
        for move in self.migrations:
            if move.timestamp <= timestamp:
                island = move.target
        return island


@dataclass(frozen=True)
class FailedProposal:
    """A generation that never became a program: the model's edits could not be used."""

    generation: int
    stage: str
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str:
        return text(self.details.get("model_name"))


@dataclass(frozen=True)
class FailedEdit:
    """One answer of a model that could not be applied; the model was asked again."""

    generation: int
    reason: str

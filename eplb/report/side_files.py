"""What lies beside a run's database: failed evaluations and edits, and what was confirmed.

Read: of each ``gen_<generation>`` folder ``results/correct.json`` (why an evaluation failed) and
``attempts/…/metadata.json`` (edits that could not be applied), and ``best/confirmation.json``
(scores on unseen traces). Not covered: the database (`eplb.evolution.rundb`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, FiniteFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from eplb.evolution.rundb import finite, text

LARGEST_SIDE_FILE = 1 << 20


@dataclass(frozen=True)
class FailedEdit:
    """One answer of a model that could not be applied; the model was asked again."""

    generation: int
    reason: str


def reason(folder: Path, generation: int) -> str:
    """Why the evaluation of ``generation`` failed, as the evaluation itself says it."""
    return text(_side_file(folder / f"gen_{generation}" / "results" / "correct.json").get("error"))


def failed_edits(folder: Path) -> Iterator[FailedEdit]:
    """The models' answers that could not be applied, in no particular order."""
    for path in folder.glob("gen_*/attempts/*/*/*/metadata.json"):
        attempt = _side_file(path)
        generation = finite(attempt.get("generation"))
        if attempt.get("success") is False and generation is not None:
            yield FailedEdit(int(generation), text(attempt.get("error_msg")))


@dataclass(frozen=True)
class FreshScore:
    """What a program scored on an unseen trace, and why where it was refused."""

    trace: str
    seed: str
    score: FiniteFloat
    refusal: str | None


@dataclass(frozen=True)
class Finalist:
    """A program that was scored on unseen traces, and what it scored on the known one."""

    generation: int
    id: str
    name: Annotated[Any, BeforeValidator(text)]
    known: FiniteFloat
    fresh: FiniteFloat
    scores: tuple[FreshScore, ...]


def confirmed(folder: Path) -> list[Finalist]:
    """The programs of ``best/confirmation.json``, best first; none where it is not a whole one."""
    try:
        rows = _side_file(folder / "best" / "confirmation.json").get("programs")
        finalists = TypeAdapter(list[Finalist]).validate_python(rows)
    except ValidationError:
        return []
    whole = len({len(each.scores) for each in finalists}) == 1
    return sorted(finalists, key=lambda each: (-each.fresh, -each.known)) if whole else []


def _side_file(path: Path) -> dict[str, Any]:
    """A small JSON file beside the database; empty where it is missing or not whole (yet)."""
    try:
        if path.stat().st_size > LARGEST_SIDE_FILE:
            return {}
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}

"""What lies beside a run's database: failed evaluations and edits, and what was confirmed.

Read: of each ``gen_<generation>`` folder ``results/correct.json`` (why an evaluation failed) and
``attempts/…/metadata.json`` (edits that could not be applied), and ``best/confirmation.json``
(scores on unseen traces). Not covered: the database (`eplb.evolution.rundb`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
class Finalist:
    """A program that was scored on unseen traces, and what it scored on the known one.

    scores: one a trace; None where it was refused
    """

    generation: int
    id: str
    name: str
    known: float
    fresh: float
    scores: tuple[float | None, ...]


@dataclass(frozen=True)
class Confirmation:
    """The best programs of a run on unseen traces, the best there first.

    traces: preset and seed of each
    """

    traces: tuple[tuple[str, str], ...]
    finalists: tuple[Finalist, ...]


def confirmation(folder: Path) -> Confirmation | None:
    """What ``best/confirmation.json`` says; None where there is none, or not a whole one."""
    try:
        rows = _side_file(folder / "best" / "confirmation.json")["programs"]
        finalists = sorted(map(_finalist, rows), key=lambda each: (-each.fresh, -each.known))
        traces = tuple((text(each["trace"]), text(each["seed"])) for each in rows[0]["scores"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    whole = all(len(each.scores) == len(traces) for each in finalists)
    return Confirmation(traces, tuple(finalists)) if whole else None


def _finalist(row: dict[str, Any]) -> Finalist:
    numbers = [finite(row[name]) for name in ("generation", "known", "fresh")]
    if None in numbers:
        raise ValueError("not a number")
    generation, known, fresh = numbers
    scores = (None if each["refusal"] else finite(each["score"]) for each in row["scores"])
    name, identity = text(row["name"]), text(row["id"])
    return Finalist(int(generation), identity, name, known, fresh, tuple(scores))


def _side_file(path: Path) -> dict[str, Any]:
    """A small JSON file beside the database; empty where it is missing or not whole (yet)."""
    try:
        if path.stat().st_size > LARGEST_SIDE_FILE:
            return {}
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}

"""What the folders ``gen_<generation>`` of a run say: failed evaluations and edits, by reason.

Read: ``results/correct.json`` (why an evaluation failed) and ``attempts/…/metadata.json`` (edits
that could not be applied). Not covered: the database (`eplb.evolution.rundb`).
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


def _side_file(path: Path) -> dict[str, Any]:
    """A small JSON file beside the database; empty where it is missing or not whole (yet)."""
    try:
        if path.stat().st_size > LARGEST_SIDE_FILE:
            return {}
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}

"""Bare token counts, as DeepSeek's EPLB takes them: JSON or npz.

JSON: nested lists [layers, experts] or [iterations, layers, experts], bare or under the key
``weight``, the name of that argument in https://github.com/deepseek-ai/EPLB. npz: the array
``weight`` of the same shapes. Layers without a token are dense ones and keep their number.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np

from eplb.common import UserError, replacing, write_text
from eplb.engines.model import EnginePlacement, ExpertStatistics, statistics_from_rows
from eplb.engines.sglang import full_rows
from eplb.engines.source import Source

KEY = "weight"
SUFFIXES = (".npz", ".json")


def recognises(source: Source) -> bool:
    if any(name.endswith(".npy") for name in source.zip_names):
        return True
    return source.looks_like_json and (isinstance(source.json, list) or source.json_has(KEY))


def read(source: Source, start: int | None = None, stop: int | None = None) -> ExpertStatistics:
    counts = _npz(source) if source.zip_names else _json(source)
    counts = counts[None] if counts.ndim == 2 else counts
    return statistics_from_rows(str(source), counts).between(start, stop)


def _npz(source: Source) -> np.ndarray:
    try:
        with np.load(source.path) as arrays:
            return arrays[KEY]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{source} has no readable array {KEY!r}; write counts there") from error


def _json(source: Source) -> np.ndarray:
    content = source.json
    if isinstance(content, dict):
        content = content.get(KEY)
    try:
        return np.asarray(content)
    except ValueError as error:
        raise UserError(f"{source}: rows have different lengths; copy it again") from error


def write(path: Path, content: ExpertStatistics | EnginePlacement) -> None:
    """Write [iterations, model layers, experts] to ``path``, .json or .npz by its suffix."""
    if isinstance(content, EnginePlacement):
        raise UserError(
            "the counts format holds statistics, not placements; choose another --format"
        )
    counts = full_rows(content)
    if path.suffix == ".json":
        write_text(path, json.dumps({KEY: counts.tolist()}) + "\n")
    else:
        with replacing(path) as partial:
            np.savez_compressed(partial, **{KEY: counts})

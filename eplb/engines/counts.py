"""Bare token counts: arrays, or dictionaries of them, in JSON, npy, npz or torch files.

Arrays are [layers, experts] or [iterations, layers, experts], bare or under the key ``weight``, the
name of that argument in https://github.com/deepseek-ai/EPLB. Their rows are the MoE layers alone.
Dictionaries have the layers' numbers as keys ("3", 3, "layer_3", "model.layers.3.mlp") and counts
[experts], [iterations, experts] or {expert: count} as values, as MindIE dumps them. Not covered:
placements, which no bare array is taken for.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from eplb.common import UserError, replacing, write_text
from eplb.engines.model import ExpertStatistics, Format
from eplb.engines.reading import array_of, statistics_of
from eplb.engines.source import Source

KEY = "weight"
LAYER = re.compile(r"(?:.*layers?[._ -]?)?(\d+)(?:\..*)?", re.IGNORECASE)
EXPERT = re.compile(r"(?:expert[._ -]?)?(\d+)", re.IGNORECASE)


def recognises(source: Source) -> bool:
    return source.content is not None


def read(source: Source) -> ExpertStatistics:
    content = source.content
    if isinstance(content, dict):
        content = content.get(KEY, content.get("logical_count", content))
    if isinstance(content, list) and isinstance(_first(content), dict):
        raise UserError(
            f"{source} holds {len(content)} records with the keys "
            f"{', '.join(map(str, content[0]))}, which no known format has; write "
            f"[layers, experts] under {KEY!r}"
        )
    if not isinstance(content, dict):
        return statistics_of(source, content)
    layers = _numbers(content, LAYER)
    if layers is not None:
        ordered = dict(sorted(layers.items()))
        return statistics_of(source, _stacked(source, ordered), tuple(ordered))
    arrays = [key for key, value in content.items() if np.ndim(_first(value)) >= 1]
    if len(arrays) != 1:
        raise UserError(f"{source} is {source.describe()}; put the token counts under {KEY!r}")
    notes = (f"{source}: token counts are taken from {arrays[0]!r}",)
    return statistics_of(source, content[arrays[0]], notes=notes)


def _first(value: object) -> object:
    return value[0] if isinstance(value, (list, tuple)) and value else value


def _numbers(content: dict, pattern: re.Pattern) -> dict[int, object] | None:
    """``content`` by the number in each key; None where a key has none, or two have the same."""
    matches = [pattern.fullmatch(str(key)) for key in content]
    if not matches or None in matches:
        return None
    numbered = {int(m[1]): v for m, v in zip(matches, content.values(), strict=True)}
    return numbered if len(numbered) == len(content) else None


def _stacked(source: Source, layers: dict[int, object]) -> object:
    """[layers, experts] or [iterations, layers, experts] of the layers' counts."""
    if all(isinstance(row, dict) for row in layers.values()):
        by_expert = {layer: _numbers(row, EXPERT) for layer, row in layers.items()}
        odd = next((layer for layer, row in by_expert.items() if row is None), None)
        if odd is not None:
            raise UserError(f"{source}: the keys of layer {odd} are no expert numbers")
        experts = 1 + max(max(row) for row in by_expert.values())
        return [[row.get(e, 0) for e in range(experts)] for row in by_expert.values()]
    counts = array_of(source, list(layers.values()), list(layers))
    return counts.swapaxes(0, 1) if counts.ndim == 3 else counts


def write_statistics(path: Path, statistics: ExpertStatistics) -> None:
    """Write [iterations, MoE layers, experts] to ``path``, .json or .npz by its suffix."""
    if path.suffix == ".json":
        write_text(path, json.dumps({KEY: statistics.loads.tolist()}) + "\n")
    else:
        with replacing(path) as partial:
            np.savez_compressed(partial, **{KEY: statistics.loads})


FORMAT = Format(
    "counts",
    recognises,
    read,
    write_statistics=write_statistics,
    suffixes=(".npz", ".json"),
    how_to_use="{path} holds token counts of the MoE layers",
    numbers_moe_layers=True,
)

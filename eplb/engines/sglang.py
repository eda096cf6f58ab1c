"""SGLang: recorded expert distributions and ``--init-expert-location`` files.

Statistics are the recorder's dumps ``expert_distribution_recorder_*.pt`` (``logical_count``
[steps, layers, experts], recorder mode ``stat``), one or a folder of them, or JSON with
``logical_count`` [layers, experts]. Placements are ``.json`` or ``.pt`` files with the only key
``physical_to_logical_map`` [layers, slots]. All have one row per layer of the model: the dense
ones show as rows of zeros in statistics, and hold their place in placements.

Checked against sglang 0.5.23 (sglang/srt/eplb/expert_distribution.py and expert_location.py). A
dump of a bounded recorder buffer is a ring whose newest step may stand anywhere; SGLang does not
tell where, so a hold-out split of such a dump is not one of time. Not covered: dumps of the
``per_pass`` and ``per_token`` modes.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np

from eplb.common import UserError, replacing, write_text
from eplb.engines.model import (
    EnginePlacement,
    ExpertStatistics,
    checked_rows,
    statistics_from_rows,
)
from eplb.engines.source import Source

COUNTS, PLACEMENT = "logical_count", "physical_to_logical_map"
SUFFIXES = (".json", ".pt")
RECORDER_FILES = "expert_distribution_recorder_*.pt"


def recognises(source: Source) -> bool:
    if source.is_folder:
        return bool(source.files(RECORDER_FILES))
    is_torch_file = any(name.endswith("data.pkl") for name in source.zip_names)
    return is_torch_file or source.json_has(COUNTS) or source.json_has(PLACEMENT)


def read(
    source: Source, start: int | None = None, stop: int | None = None
) -> ExpertStatistics | EnginePlacement:
    """Read a dump, a folder of dumps in order of their names (times), or a placement."""
    if source.is_folder:
        dumps = [
            _counts(Source(path), _load(Source(path))) for path in source.files(RECORDER_FILES)
        ]
        if len({dump.shape[1:] for dump in dumps}) != 1:
            raise UserError(
                f"{source}: the dumps differ in layers or experts; keep those of one model"
            )
        return statistics_from_rows(str(source), np.concatenate(dumps)).between(start, stop)
    content = _load(source)
    if PLACEMENT in content:
        return _placement(source, content[PLACEMENT])
    return statistics_from_rows(str(source), _counts(source, content)).between(start, stop)


def _load(source: Source) -> dict:
    if source.looks_like_json:
        content = source.json
    else:
        import torch

        try:
            content = torch.load(source.path, weights_only=True, map_location="cpu")
        except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
            raise UserError(f"{source} is truncated or not a torch file; copy it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{source} holds no dictionary; SGLang writes {COUNTS} or {PLACEMENT}")
    return content


def _counts(source: Source, content: dict) -> np.ndarray:
    """[steps, layers, experts]"""
    if COUNTS not in content:
        way_out = "record with --expert-distribution-recorder-mode stat"
        raise UserError(f"{source} has no {COUNTS}; {way_out}")
    counts = _array(source, content[COUNTS])
    return counts[None] if counts.ndim == 2 else counts


def _array(source: Source, values) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise UserError(f"{source}: rows have different lengths; copy it again") from error
    if not array.ndim:
        raise UserError(f"{source} holds {values!r} instead of rows of numbers; copy it again")
    return array


def _placement(source: Source, rows) -> EnginePlacement:
    rows = list(_array(source, rows))
    layers = tuple(range(len(rows)))
    phy2log, num_experts = checked_rows(str(source), layers, rows)
    return EnginePlacement(phy2log, layers, num_experts, model_layers=len(rows))


def write(path: Path, content: ExpertStatistics | EnginePlacement) -> None:
    """Write ``path`` as .json or .pt, by its suffix; JSON statistics are summed over the steps."""
    as_json = path.suffix == ".json"
    if isinstance(content, EnginePlacement):
        key, values = PLACEMENT, content.all_layers()
    else:
        key, values = COUNTS, full_rows(content)
        values = values.sum(axis=0) if as_json else values
    if as_json:
        write_text(path, json.dumps({key: values.tolist()}) + "\n")
        return
    import torch

    with replacing(path) as partial:
        torch.save({key: torch.from_numpy(values)}, partial)


def full_rows(statistics: ExpertStatistics) -> np.ndarray:
    """[iterations, model layers, experts]: the loads with rows of zeros for dense layers."""
    height = max(statistics.model_layers or 0, max(statistics.layers) + 1)
    rows = np.zeros((len(statistics.loads), height, statistics.num_experts), dtype=np.int64)
    rows[:, list(statistics.layers)] = statistics.loads
    return rows

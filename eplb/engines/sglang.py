"""SGLang: recorded expert distributions and ``--init-expert-location`` files.

Statistics are the recorder's dumps ``expert_distribution_recorder_*.pt`` (``logical_count``
[steps, layers, experts], recorder mode ``stat``), one or a folder of them, or JSON with
``logical_count`` [layers, experts]. Placements are ``.json`` or ``.pt`` files with the only key
``physical_to_logical_map`` [layers, slots]. All have one row per layer of the model: the dense
ones show as rows of zeros in statistics, and hold their place in placements.

Checked against sglang 0.5.23 (sglang/srt/eplb/expert_distribution.py and expert_location.py). A
dump of a bounded recorder buffer is a ring whose newest step may stand anywhere; SGLang does not
tell where, so a hold-out split of such a dump is not one of time. Not covered: dumps of the
``per_pass`` and ``per_token`` modes; CSV dumps are in `eplb.engines.table`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from eplb.common import UserError, replacing, write_text
from eplb.engines.model import EnginePlacement, ExpertStatistics, Format
from eplb.engines.reading import placement_of, statistics_of
from eplb.engines.source import Source

COUNTS, PLACEMENT = "logical_count", "physical_to_logical_map"
RECORDER_FILE = re.compile(r"expert_distribution_recorder_.*\.pt")


def recognises(source: Source) -> bool:
    if source.is_folder:
        return bool(source.files(RECORDER_FILE))
    if source.has(COUNTS):
        # A dictionary from layer to counts numbers its layers itself, as bare counts may.
        return not isinstance(source.content[COUNTS], dict)
    return source.has(PLACEMENT) or source.has("records")


def read(source: Source) -> ExpertStatistics | EnginePlacement:
    """Read a dump, a folder of dumps in order of their names (times), or a placement."""
    if source.is_folder:
        return _folder(source)
    if source.has(PLACEMENT):
        placement = placement_of(source, source.content[PLACEMENT])
        return replace(placement, model_layers=len(placement.layers))
    return _dump(source)


def _statistics(source: Source, counts: object, **known) -> ExpertStatistics:
    statistics = statistics_of(source, counts, **known)
    return replace(statistics, moe_layers_only=False, model_layers=len(statistics.layers))


def _dump(source: Source) -> ExpertStatistics:
    """The steps of one dump; unused places at the end of the recorder's buffer are dropped."""
    if not source.has(COUNTS):
        way_out = "record with --expert-distribution-recorder-mode stat"
        raise UserError(f"{source} has no {COUNTS}; {way_out}")
    statistics = _statistics(source, source.content[COUNTS])
    used = np.flatnonzero(statistics.loads.any(axis=(1, 2)))
    return statistics.between(0, int(used[-1]) + 1)


def _folder(source: Source) -> ExpertStatistics:
    """Dumps one after the other, or side by side where ranks count different layers.

    The recorder adds up the ranks of a pipeline stage, and only the stages dump apart.
    """
    by_rank: dict[object, list[np.ndarray]] = defaultdict(list)
    in_time = []
    for path in source.files(RECORDER_FILE):
        dump = Source(path)
        in_time.append(_dump(dump).loads)
        by_rank[dump.content.get("rank")].append(in_time[-1])
    if len({loads.shape[1:] for loads in in_time}) != 1:
        raise UserError(f"{source}: the dumps differ in layers or experts; keep those of one model")
    ranks = [np.concatenate(dumps) for dumps in by_rank.values()]
    stages = sum(loads.any(axis=(0, 2)).astype(int) for loads in ranks)
    if len(ranks) == 1 or stages.max() > 1:
        return _statistics(source, np.concatenate(in_time))
    notes = [f"{source}: {len(ranks)} pipeline stages, put side by side"]
    if len({len(loads) for loads in ranks}) > 1:
        notes.append(f"{source}: the stages recorded different numbers of steps")
    steps = [sum(step) for step in zip_longest(*ranks, fillvalue=0)]
    return _statistics(source, np.stack(steps), notes=tuple(notes))


def write_placement(path: Path, placement: EnginePlacement) -> None:
    """Write ``path`` as .json or .pt, by its suffix."""
    rows = placement.all_layers()
    if path.suffix == ".json":
        write_text(path, json.dumps({PLACEMENT: rows.tolist()}) + "\n")
        return
    import torch

    with replacing(path) as partial:
        torch.save({PLACEMENT: torch.from_numpy(rows)}, partial)


FORMAT = Format(
    "sglang",
    recognises,
    read,
    write_placement,
    suffixes=(".json", ".pt"),
    how_to_use="SGLang reads it with --init-expert-location {path} "
    "--ep-num-redundant-experts {spare}",
)

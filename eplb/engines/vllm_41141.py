"""vLLM's proposal #41141, which is open: load statistics and an initial mapping, provisional.

Statistics are the JSON lines of `eplb.loadstats`, a file or a folder such as
``EPLB_VLLM_RECORD``. A mapping is one line with ``num_redundant_experts``, ``num_slots`` and
``initial_global_assignments``, {"0": experts of the slots of the first MoE layer, …}.
"""

from __future__ import annotations

import json
from pathlib import Path

from eplb import loadstats
from eplb.common import UserError, write_text
from eplb.engines.format import Format
from eplb.engines.model import EnginePlacement, ExpertStatistics
from eplb.engines.reading import checked_rows, statistics_of
from eplb.engines.source import Source
from eplb.placement import Deployment

MAPPING, ROWS = "eplb_initial_mapping", "initial_global_assignments"


def recognises(source: Source) -> bool:
    """By the first bytes, since statistics are large."""
    return loadstats.recognises(source.file) or (
        source.looks_like_json
        and (MAPPING.encode() in source.head or ROWS.encode() in source.head)
        and _mapping(source) is not None
    )


def read(source: Source) -> ExpertStatistics | EnginePlacement:
    if loadstats.recognises(source.file):
        recording = loadstats.read(source.file)
        return statistics_of(source, recording.loads, **recording.sizes)
    mapping = _mapping(source)
    rows = mapping.get(ROWS)
    if not isinstance(rows, dict) or set(rows) != {str(layer) for layer in range(len(rows))}:
        raise UserError(f"{source}: {ROWS} does not have the layers from 0 on; generate it again")
    layers = tuple(range(len(rows)))
    phy2log, experts = checked_rows(source, layers, [rows[str(layer)] for layer in layers])
    slots = phy2log.shape[1]
    for key, found in (("num_slots", slots), ("num_redundant_experts", slots - experts)):
        if mapping.get(key, found) != found:
            raise UserError(f"{source}: {key} is {mapping[key]}, the layers have {found}")
    return EnginePlacement(phy2log, layers, experts, moe_layers_only=True)


def _mapping(source: Source) -> dict | None:
    lines = source.content if isinstance(source.content, list) else [source.content]
    found = [x for x in lines if isinstance(x, dict) and x.get("record_type") == MAPPING]
    return found[0] if found else None


def write_placement(path: Path, placement: EnginePlacement) -> None:
    rows = placement.phy2log
    mapping = {
        "record_type": MAPPING,
        "version": 1,
        "num_redundant_experts": rows.shape[1] - placement.num_experts,
        "num_slots": rows.shape[1],
        ROWS: {str(layer): row for layer, row in enumerate(rows.tolist())},
    }
    write_text(path, json.dumps(mapping) + "\n")


def write_statistics(path: Path, statistics: ExpertStatistics) -> None:
    """Write a line per iteration; ranks and slots that the statistics do not tell count as one."""
    deployment = Deployment(
        statistics.num_slots or statistics.num_experts,
        statistics.num_groups or 1,
        statistics.num_nodes or 1,
        statistics.num_ranks or 1,
    )
    steps = zip(statistics.iterations, statistics.loads, strict=True)
    write_text(path, "".join(loadstats.line_of(load, step, deployment) for step, load in steps))


FORMAT = Format(
    "vllm-41141",
    recognises,
    read,
    write_placement,
    write_statistics,
    suffixes=(".json", ".jsonl"),
    how_to_use="released vLLM reads it with the plug-in: EPLB_VLLM_PLACEMENT={path} vllm serve "
    "--eplb-config '{{\"num_redundant_experts\": {spare}}}' …, a vLLM with the proposal #41141 "
    "(provisional) as initial_mapping_path in --eplb-config",
    numbers_moe_layers=True,
)

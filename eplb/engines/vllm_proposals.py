"""Files of two open proposals to vLLM, provisional: #41141 and #49572. Layers are MoE layers.

#41141: an initial mapping, one line with ``num_redundant_experts``, ``num_slots`` and
``initial_global_assignments``, {"0": experts of the slots of layer 0, …}; and load statistics, the
JSON lines of `eplb.loadstats`, which `eplb.engines.trace` reads.
#49572: an initial expert map, a JSON list of the expert in each slot, for all layers or for each.
Not covered: whether a vLLM with either proposal takes them, which no release is.
"""

from __future__ import annotations

import json
from pathlib import Path

from eplb import loadstats
from eplb.common import UserError, write_text
from eplb.engines.model import EnginePlacement, ExpertStatistics, Format
from eplb.engines.reading import placement_of
from eplb.engines.source import Source

MAPPING, ROWS = "eplb_initial_mapping", "initial_global_assignments"
HOW_TO_USE = (
    "released vLLM reads it with the plug-in: EPLB_VLLM_PLACEMENT={{path}} vllm serve "
    "--eplb-config '{{{{\"num_redundant_experts\": {{spare}}}}}}' …, a vLLM with the proposal "
    "#{number} (provisional) as {option} in --eplb-config"
)


def recognises(source: Source) -> bool:
    """By the first bytes before all of them, since other files of JSON are large."""
    in_head = source.looks_like_json and ROWS.encode() in source.head
    return in_head and _mapping(source) is not None


def read(source: Source) -> EnginePlacement:
    mapping = _mapping(source)
    rows = mapping.get(ROWS)
    if not isinstance(rows, dict) or set(rows) != {str(layer) for layer in range(len(rows))}:
        raise UserError(f"{source}: {ROWS} does not have the layers from 0 on; generate it again")
    ordered = [rows[str(layer)] for layer in range(len(rows))]
    placement = placement_of(source, ordered, moe_layers_only=True)
    for key, found in _sizes(placement).items():
        if mapping.get(key, found) != found:
            raise UserError(f"{source}: {key} is {mapping[key]}, the layers have {found}")
    return placement


def _mapping(source: Source) -> dict | None:
    lines = source.content if isinstance(source.content, list) else [source.content]
    found = (x for x in lines if isinstance(x, dict) and x.get("record_type") == MAPPING)
    return next(found, None)


def _sizes(placement: EnginePlacement) -> dict[str, int]:
    slots = placement.phy2log.shape[1]
    return {"num_redundant_experts": slots - placement.num_experts, "num_slots": slots}


def write_placement(path: Path, placement: EnginePlacement) -> None:
    rows = {str(layer): row for layer, row in enumerate(placement.phy2log.tolist())}
    mapping = {"record_type": MAPPING, "version": 1} | _sizes(placement) | {ROWS: rows}
    write_text(path, json.dumps(mapping) + "\n")


def write_statistics(path: Path, statistics: ExpertStatistics) -> None:
    """Write a line per iteration; one rank where the statistics do not tell how many."""
    deployment = statistics.deployment or statistics.on(num_gpus=1).deployment
    steps = zip(statistics.iterations, statistics.loads, strict=True)
    write_text(path, "".join(loadstats.line_of(load, step, deployment) for step, load in steps))


def is_expert_map(source: Source) -> bool:
    """Whether each row has every number from 0 on and more than one, as token counts have not."""
    content = source.content if source.looks_like_json else None
    if not isinstance(content, list) or not content:
        return False
    rows = content if isinstance(content[0], list) else [content]
    return all(
        isinstance(row, list)
        and all(type(expert) is int for expert in row)
        and len(set(row)) > 1
        and set(row) == set(range(max(row) + 1))
        for row in rows
    )


def read_expert_map(source: Source) -> EnginePlacement:
    """The placement of a list of slots for all layers, or of one for each."""
    every_layer = not isinstance(source.content[0], list)
    rows = [source.content] if every_layer else source.content
    return placement_of(source, rows, moe_layers_only=True, every_layer=every_layer)


def write_expert_map(path: Path, placement: EnginePlacement) -> None:
    """Write a list for each layer."""
    write_text(path, json.dumps(placement.phy2log.tolist()) + "\n")


MAPPING_FORMAT = Format(
    "vllm-41141",
    recognises,
    read,
    write_placement,
    write_statistics,
    suffixes=(".json", ".jsonl"),
    how_to_use=HOW_TO_USE.format(number=41141, option="initial_mapping_path"),
    numbers_moe_layers=True,
)
EXPERT_MAP_FORMAT = Format(
    "vllm-49572",
    is_expert_map,
    read_expert_map,
    write_expert_map,
    suffixes=(".json",),
    how_to_use=HOW_TO_USE.format(number=49572, option="initial_expert_map_path"),
    numbers_moe_layers=True,
)

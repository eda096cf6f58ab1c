"""vLLM's proposal #49572, which is open: the file of ``initial_expert_map_path``, provisional.

A JSON list: the expert in each slot, one list for all MoE layers or one per layer.
"""

from __future__ import annotations

import json
from pathlib import Path

from eplb.common import write_text
from eplb.engines.format import Format
from eplb.engines.model import EnginePlacement
from eplb.engines.reading import checked_rows
from eplb.engines.source import Source


def recognises(source: Source) -> bool:
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


def read(source: Source) -> EnginePlacement:
    every_layer = not isinstance(source.content[0], list)
    rows = [source.content] if every_layer else source.content
    layers = tuple(range(len(rows)))
    phy2log, experts = checked_rows(source, layers, rows)
    return EnginePlacement(phy2log, layers, experts, moe_layers_only=True, every_layer=every_layer)


def write_placement(path: Path, placement: EnginePlacement) -> None:
    write_text(path, json.dumps(placement.phy2log.tolist()) + "\n")


FORMAT = Format(
    "vllm-49572",
    recognises,
    read,
    write_placement,
    suffixes=(".json",),
    how_to_use="released vLLM reads it with the plug-in: EPLB_VLLM_PLACEMENT={path} vllm serve "
    "--eplb-config '{{\"num_redundant_experts\": {spare}}}' …, a vLLM with the proposal #49572 "
    "(provisional) as initial_expert_map_path in --eplb-config",
    numbers_moe_layers=True,
)

"""Load statistics as JSON lines: what a serving engine appends while it runs.

One object a line with ``record_type`` "eplb_load_stats", ``num_ranks``, ``expert_load``
[layers][slots] and ``p2l_map`` of the same shape, the logical expert in each slot (-1: none).
Layers are MoE layers, and a line is a window. Source: vLLM's proposal #41141, which is open: the
format is provisional. Lines of other types are skipped, as is a last line that is still being
written. Our lines also tell ``num_slots``, ``num_groups`` and ``num_nodes``. Not covered: the
proposal's ``tokens``, which no window tells, and its mappings (`eplb.engines.vllm_proposals`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eplb.common import UserError, reading
from eplb.jsonstream import table_of
from eplb.placement import Deployment

RECORD_TYPE = "eplb_load_stats"
SUFFIX = ".jsonl"
# Of the deployment, and what a trace calls them.
_SIZES = {"num_ranks": "num_gpus", "num_groups": "num_groups", "num_nodes": "num_nodes"}
_TYPED = re.compile(rb'"record_type"\s*:')
_HEAD_BYTES = 1 << 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def line_of(load: np.ndarray, step: int, deployment: Deployment) -> str:
    """The line, with its end, of ``load`` [layers, experts]: slot i stands for expert i."""
    layers, experts = load.shape
    record = {
        "record_type": RECORD_TYPE,
        "version": 1,
        "step": step,
        "num_ranks": deployment.num_gpus,
        "num_slots": deployment.num_replicas,
        "num_groups": deployment.num_groups,
        "num_nodes": deployment.num_nodes,
        "num_layers": layers,
        "expert_load": load.tolist(),
        "p2l_map": [list(range(experts))] * layers,
    }
    return json.dumps(record, separators=(",", ":")) + "\n"


def recognises(path: Path) -> bool:
    """Whether ``path`` is a file of load statistics or a folder with some."""
    return bool(_recordings(path))


def items_of(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of the trace that a file or folder of load statistics makes.

    The value of "load_history" is a window [layers, experts] int64 after the words for its line;
    the others, at the end, are the deployment's of the last window, as far as it tells.

    A folder stands for its model with the most layers, which a draft model has few of. Raises
    `UserError` with file, line and layer.
    """
    recordings = _recordings(path)
    if len(recordings) > 1:
        recordings.sort(key=lambda file: -len(_window(*next(_windows(file)))))
    for where, record in _windows(recordings[0]):
        yield "load_history", (where, _window(where, record))
    for name, field in _SIZES.items():
        size = record.get(name)
        if size is not None and type(size) is not int:
            raise UserError(f"{where}: {name} {size!r} is not a whole number")
        yield field, size
    yield "num_replicas", record.get("num_slots", len(record["p2l_map"][0]))


def _lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the JSON lines in ``file``, after the words that name its line."""
    with file.open("rb") as stream:
        for number, line in enumerate(reading(stream, stream), 1):
            where = f"{file}: line {number}"
            try:
                record = json.loads(line.removeprefix(_BYTE_ORDER_MARK) or b"null")
            except ValueError as error:
                if not line.strip():
                    continue
                if number > 1 and not line.endswith(b"\n"):
                    return
                raise UserError(f"{where} is not JSON ({error}); remove it") from error
            if isinstance(record, dict):
                yield where, record


def _recordings(path: Path) -> list[Path]:
    files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    return [file for file in files if file.is_file() and _looks_recorded(file)]


def _looks_recorded(file: Path) -> bool:
    """By the first bytes, since other files of JSON can be very large."""
    with file.open("rb") as stream:
        head = stream.read(_HEAD_BYTES).removeprefix(_BYTE_ORDER_MARK).lstrip()
        if b'"expert_load"' in head and b'"record_type"' not in head:
            # Keys in the alphabet's order have the loads of a line before its type.
            head += stream.readline()
    is_line = head.startswith(b"{") and _TYPED.search(head)
    return bool(is_line) and b'"eplb_initial_mapping"' not in head


def _windows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    found = False
    for where, record in _lines(file):
        if record.get("record_type") == RECORD_TYPE:
            found = True
            yield where, record
    if not found:
        raise UserError(f"{file} has no line of {RECORD_TYPE}; record for longer")


def _window(where: str, record: dict[str, Any]) -> np.ndarray:
    """[layers, experts] int64: the slots' loads summed by expert."""
    load = table_of(record.get("expert_load"), f"{where}: expert_load", "slot")
    expert = table_of(record.get("p2l_map"), f"{where}: p2l_map", "slot", least=-1)
    if load.shape != expert.shape:
        raise UserError(
            f"{where}: expert_load has shape {list(load.shape)}, p2l_map {list(expert.shape)}; "
            f"both are layers x slots"
        )
    layers, experts = len(load), int(expert.max()) + 1
    # One expert more takes what empty slots counted.
    cell = np.where(expert < 0, experts, expert) + np.arange(layers)[:, None] * (experts + 1)
    sums = np.bincount(cell.ravel(), load.ravel(), layers * (experts + 1)).astype(np.int64)
    return sums.reshape(layers, experts + 1)[:, :experts]

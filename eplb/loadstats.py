"""Load statistics as JSON lines: what a serving engine appends while it runs.

One object a line with ``record_type`` "eplb_load_stats", ``num_ranks``, ``expert_load``
[layers][slots] and ``p2l_map`` of the same shape, the logical expert in each slot (-1: none).
Layers are MoE layers, and a line is a window. Source: vLLM's proposal #41141, which is open: the
format is provisional. Lines of other types are skipped, as is a last line that is still being
written. Not covered: the proposal's ``tokens``, which no window tells, and its mappings
(`eplb.engines.vllm_41141`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eplb.common import UserError

LOADS, MAPPING = "eplb_load_stats", "eplb_initial_mapping"
SUFFIX = ".jsonl"
MOST_TOKENS = 2**40  # in one slot, as in a trace
_HEAD_BYTES = 1 << 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def line_of(load: np.ndarray, step: int, num_ranks: int) -> str:
    """The line, with its end, of ``load`` [layers, experts]: slot i stands for expert i."""
    layers, experts = load.shape
    record = {
        "record_type": LOADS,
        "version": 1,
        "step": step,
        "num_ranks": num_ranks,
        "num_layers": layers,
        "expert_load": load.tolist(),
        "p2l_map": [list(range(experts))] * layers,
    }
    return json.dumps(record, separators=(",", ":")) + "\n"


def recognises(path: Path) -> bool:
    """Whether ``path`` is a file of load statistics or a folder with some."""
    return bool(_recordings(path))


def read(
    path: Path, progress: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, int | None]:
    """The loads [windows, layers, experts] int64, and the ranks of the last window if it tells.

    A folder stands for its model with the most layers, which a draft model has few of.
    progress: called with (bytes read, bytes in the file) after every line
    """
    recordings = _recordings(path)
    if len(recordings) > 1:
        recordings.sort(key=lambda file: -len(_window(*next(_windows(file)))[0]))
    file = recordings[0]
    windows: list[np.ndarray] = []
    ranks = None
    for where, record in _windows(file, progress):
        window, ranks = _window(where, record)
        if windows and window.shape != windows[0].shape:
            raise UserError(
                f"{where} has {window.shape[0]} layers x {window.shape[1]} experts, the first "
                f"window {windows[0].shape[0]} x {windows[0].shape[1]}; keep one model a file"
            )
        windows.append(window)
    return np.stack(windows), ranks


def lines(
    file: Path, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the JSON lines in ``file``, after the words that name its line."""
    done, total = 0, file.stat().st_size
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            done += len(line)
            where = f"{file}: line {number}"
            try:
                record = json.loads(line.removeprefix(_BYTE_ORDER_MARK) or b"null")
            except ValueError as error:
                if not line.strip():
                    continue
                if number > 1 and not line.endswith(b"\n"):
                    return
                raise UserError(f"{where} is not JSON ({error}); remove it") from error
            if progress:
                progress(done, total)
            if isinstance(record, dict):
                yield where, record


def _recordings(path: Path) -> list[Path]:
    files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    return [file for file in files if file.is_file() and _looks_recorded(file)]


def _looks_recorded(file: Path) -> bool:
    """By the first bytes, since other files of JSON can be very large."""
    with file.open("rb") as stream:
        head = stream.read(_HEAD_BYTES).removeprefix(_BYTE_ORDER_MARK).lstrip()
    ours = b'"record_type"' in head or b'"expert_load"' in head
    return head.startswith(b"{") and ours and MAPPING.encode() not in head


def _windows(
    file: Path, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    found = False
    for where, record in lines(file, progress):
        if record.get("record_type") == LOADS:
            found = True
            yield where, record
    if not found:
        raise UserError(f"{file} has no line of {LOADS}; record for longer")


def _window(where: str, record: dict[str, Any]) -> tuple[np.ndarray, int | None]:
    """[layers, experts] int64: the slots' loads summed by expert; and the ranks."""
    load, expert = (_table(where, record, key) for key in ("expert_load", "p2l_map"))
    if load.shape != expert.shape:
        raise UserError(
            f"{where}: expert_load has shape {list(load.shape)}, p2l_map {list(expert.shape)}; "
            f"both are layers x slots"
        )
    wrong = np.argwhere((load < 0) | (load > MOST_TOKENS))
    if wrong.size:
        layer, slot = wrong[0]
        raise UserError(
            f"{where}: layer {layer}, slot {slot} has {load[layer, slot]} tokens; counts go from "
            f"0 to {MOST_TOKENS}"
        )
    layers, experts = len(load), int(expert.max()) + 1
    # One expert more takes what empty slots counted.
    cell = np.where(expert < 0, experts, expert) + np.arange(layers)[:, None] * (experts + 1)
    sums = np.bincount(cell.ravel(), load.ravel(), layers * (experts + 1)).astype(np.int64)
    return sums.reshape(layers, experts + 1)[:, :experts], record.get("num_ranks")


def _table(where: str, record: dict[str, Any], key: str) -> np.ndarray:
    try:
        table = np.asarray(record.get(key))
    except ValueError:
        table = np.empty(0)
    if table.ndim != 2 or not table.size or table.dtype.kind not in "iu":
        raise UserError(f"{where}: {key} is not a list of whole numbers for each layer")
    return table.astype(np.int64)

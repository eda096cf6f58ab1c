"""Load histories in memory and on disk: the trace, its windows, reading and writing.

A trace file is one JSON object, the format of the public ``expert-load.json``:
``{<header>, "load_history": [{"logical_expert_load": [[tokens per expert] per layer]}, …]}``.
Unknown keys, at the top or in a record, are ignored. Reading streams (`eplb.jsonstream`), so that
a file of hundreds of megabytes costs little more memory than its numbers. The load statistics that
an engine appends (`eplb.loadstats`) are read as well, a window each. Not covered: what a placement
does to a load (`eplb.loads`), and the synthetic trace (`eplb.workload_model`).
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from eplb import loadstats
from eplb.common import UserError, replacing
from eplb.jsonstream import BadJson, items_of
from eplb.placement import Deployment

# Records per window of the public file, which does not say so itself.
PUBLIC_INTERVAL = 100

# The model that `Deployment`'s defaults are for is DeepSeek-V3, with so many experts.
DEFAULT_EXPERTS = 256

# More tokens than this in one record are a mistake, and could overflow the sums of windows.
MOST_TOKENS = 2**40


@dataclass(frozen=True)
class TraceHeader:
    """Where a trace comes from; every field may be unknown."""

    model: str | None = None  # the name of the served model
    source: str | None = None  # how the records were obtained
    seed: int | None = None  # of a synthetic trace
    top_k: int | None = None  # experts per token
    num_groups: int | None = None  # expert groups of the model's routing
    # The deployment that it was recorded on, or is meant for.
    num_replicas: int | None = None
    num_nodes: int | None = None
    num_gpus: int | None = None
    steps_per_record: int | None = None  # engine steps that one record sums up
    rebalance_interval: int | None = None  # records per window


@dataclass(frozen=True)
class Trace:
    """A recorded load history: ``loads`` [records, layers, experts] int64, tokens per expert."""

    loads: np.ndarray
    header: TraceHeader = TraceHeader()

    def deployment(self, **chosen: int | None) -> Deployment:
        """The deployment to place on: the sizes ``chosen``, else the header's, else the defaults.

        Raises `UserError` for sizes that do not fit the experts, or that nobody has named: the
        defaults would score a recording made elsewhere on the wrong GPUs. The message does not
        name the file, which a trace does not know.
        """
        experts = self.loads.shape[2]
        sizes = {
            field.name: chosen.get(field.name) or getattr(self.header, field.name)
            for field in fields(Deployment)
        }
        unknown = [name for name in ("num_replicas", "num_gpus") if sizes[name] is None]
        if unknown and experts != DEFAULT_EXPERTS:
            raise UserError(
                f"it has {experts} experts and does not say which deployment it is for; "
                f"give --{' and --'.join(unknown)}, and --num_nodes and --num_groups if need be"
            )
        known = {name: size for name, size in sizes.items() if size is not None}
        deployment = Deployment(**known)
        deployment.check(experts)
        return deployment

    def interval(self, rebalance_interval: int | None = None) -> int:
        """Records per window: the argument, else the header's, else 100 as in the public file.

        Raises `UserError` where that leaves fewer than two windows, one to learn from and one to
        be judged on. The message does not name the file, which a trace does not know.
        """
        records = len(self.loads)
        candidates = (rebalance_interval, self.header.rebalance_interval, PUBLIC_INTERVAL)
        interval = next(value for value in candidates if value is not None)
        if interval < 1:
            raise UserError(f"rebalance_interval is {interval}; it must be at least 1")
        if records < 2:
            raise UserError(
                f"the trace has {records} record and makes no two windows; record for longer"
            )
        if records // interval < 2:
            raise UserError(
                f"{records} records make {records // interval or 'no'} whole window at a "
                f"rebalance_interval of {interval}, and two are needed; "
                f"the largest value that works is {records // 2}"
            )
        return interval

    def windows(self, rebalance_interval: int | None = None) -> np.ndarray:
        """[windows, layers, experts] int64: sums of ``rebalance_interval`` consecutive records.

        Records left over after the last whole window are dropped. A shorter window would be
        noisier than the others and yet weigh as much as they do in a mean over windows, so that
        the score would depend on where the recording happened to stop.
        """
        return self._by_window(self.interval(rebalance_interval)).sum(axis=1, dtype=np.int64)

    def _by_window(self, interval: int) -> np.ndarray:
        """[windows, interval, layers, experts] the records of whole windows."""
        whole = len(self.loads) // interval * interval
        return self.loads[:whole].reshape(-1, interval, *self.loads.shape[1:])


@dataclass(frozen=True)
class History:
    """A trace cut into windows.

    records: [windows, records per window, layers, experts] int64, tokens routed to each expert
    windows: [windows, layers, experts] int64, the sums over a window's records
    """

    records: np.ndarray
    windows: np.ndarray

    @classmethod
    def of(cls, trace: Trace, interval: int) -> History:
        """``trace`` in windows of ``interval`` records; those after the last are left out.

        Raises `UserError` where nothing can be learned or judged. Single windows and layers may be
        without tokens: they have no balancedness, and averages leave them out.
        """
        windows = trace.windows(interval)
        for part, verb in ((windows[:-1], "shown"), (windows[1:], "judged on")):
            if not part.any():
                raise UserError(
                    f"no window that a program is {verb} has any token in it; record some traffic"
                )
        return cls(trace._by_window(interval), windows)

    @property
    def seen(self) -> np.ndarray:
        """The windows that a program is shown: all but the last, which only scores."""
        return self.windows[:-1]


def read_trace(
    path: str | os.PathLike, progress: Callable[[int, int], None] | None = None
) -> Trace:
    """Read a trace file, also a gzipped one.

    Raises `UserError` with file, record and layer for anything unusable.

    progress: called with (bytes read so far, bytes in the file) now and then
    """
    path = Path(path)
    try:
        if loadstats.recognises(path):
            return _recorded(path, progress)
        if path.is_dir():
            raise UserError(f"trace {path} is a directory; name the expert-load.json in it")
        with path.open("rb") as file:
            if file.peek(2).startswith(b"\x1f\x8b"):
                return _read(f"trace {path}", items_of(gzip.open(file), "load_history"))
            return _read(f"trace {path}", items_of(file, "load_history", progress))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"trace {path} is cut off or damaged ({error}); download it again"
        ) from error
    except FileNotFoundError as error:
        raise UserError(
            f"trace {path} does not exist; name an existing file, or write a synthetic one "
            f"with python -m eplb.workload_model --output {path}"
        ) from error
    except OSError as error:
        reason = f"{error.strerror}; name a readable file"
        raise UserError(f"cannot read trace {path}: {reason}") from error
    except BadJson as error:
        raise UserError(f"trace {path} {error}; record or download it again") from error


def _recorded(path: Path, progress: Callable[[int, int], None] | None) -> Trace:
    """The windows of an engine's load statistics, for the deployment that they tell."""
    recording = loadstats.read(path, progress)
    sizes = recording.sizes
    header = {
        "source": "load statistics",
        "num_gpus": sizes["num_ranks"],
        "num_replicas": sizes["num_slots"],
        "num_groups": sizes["num_groups"],
        "num_nodes": sizes["num_nodes"],
        "rebalance_interval": 1,
    }
    return Trace(recording.loads, _checked_header(f"trace {path}", header))


def _read(where: str, items: Iterator[tuple[str, Any]]) -> Trace:
    header: dict[str, Any] = {}
    records: list[np.ndarray] = []
    for key, value in items:
        if key != "load_history":
            header[key] = value
            continue
        load = _load_of(value, f"{where}: record {len(records)}")
        records.append(load)
        if load.shape != records[0].shape:
            (layers, experts), first = load.shape, records[0].shape
            raise UserError(
                f"{where}: record {len(records) - 1} has {layers} layers x {experts} experts, "
                f"record 0 has {first[0]} x {first[1]}; every record must have the same shape"
            )
    if not records:
        raise UserError(f"{where}: load_history has no records; record a longer history")
    return Trace(np.stack(records, dtype=np.int64), _checked_header(where, header))


def _load_of(record: Any, where: str) -> np.ndarray:
    """[layers, experts] integers of one record, in four bytes each where they fit."""
    rows = record.get("logical_expert_load") if isinstance(record, dict) else None
    if not isinstance(rows, list) or not rows:
        raise UserError(
            f'{where} has no "logical_expert_load", a list of layers; '
            "every record needs one list of token counts per layer"
        )
    numbers = array("q")
    for layer, row in enumerate(rows):
        if not isinstance(row, list) or not row:
            raise UserError(f"{where}, layer {layer} is not a list of token counts per expert")
        if len(row) != len(rows[0]):
            raise UserError(
                f"{where}, layer {layer} has {len(row)} experts, layer 0 has {len(rows[0])}; "
                "every layer must have the same number"
            )
        try:
            numbers.extend(array("q", row))
        except (TypeError, OverflowError):
            _check_row(row, f"{where}, layer {layer}")
    load = np.frombuffer(numbers, dtype=np.int64).reshape(len(rows), -1)
    # JSON's true passes for the integer 1: look closely at the few rows that could hide one.
    suspects = (load <= 1).any(axis=1) | (load > MOST_TOKENS).any(axis=1)
    for layer in np.flatnonzero(suspects):
        _check_row(rows[layer], f"{where}, layer {layer}")
    return load.astype(np.int32) if load.max() <= np.iinfo(np.int32).max else load.copy()


def _check_row(row: list[Any], where: str) -> None:
    for expert, tokens in enumerate(row):
        if type(tokens) is not int:
            shown = json.dumps(tokens)
            shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
            raise UserError(
                f"{where}, expert {expert} is {shown}; token counts must be integers from 0 on"
            )
        if tokens < 0 or tokens > MOST_TOKENS:
            raise UserError(
                f"{where}, expert {expert} is {tokens}; token counts go from 0 to {MOST_TOKENS}"
            )


def _checked_header(where: str, header: dict[str, Any]) -> TraceHeader:
    """The fields of ``header`` that are known; the others may be anything."""
    known = {field.name: header.get(field.name) for field in fields(TraceHeader)}
    for name, value in known.items():
        is_text, least = name in ("model", "source"), 0 if name == "seed" else 1
        fits = isinstance(value, str) if is_text else type(value) is int and value >= least
        if value is not None and not fits:
            wanted = "text" if is_text else "a positive integer"
            raise UserError(f"{where}: {name} is {json.dumps(value)}; it must be {wanted}")
    return TraceHeader(**known)


def write_trace(path: str | os.PathLike, trace: Trace) -> None:
    """Write ``trace`` to ``path``, whole or not at all: one record a line, no spaces."""
    known = {key: value for key, value in asdict(trace.header).items() if value is not None}
    head = json.dumps(known | {"load_history": []}, ensure_ascii=False)
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(head.removesuffix("]}"))
        for index, load in enumerate(trace.loads):
            record = {"logical_expert_load": load.tolist()}
            file.write(",\n" if index else "\n")
            file.write(json.dumps(record, separators=(",", ":")))
        file.write("\n]}\n")

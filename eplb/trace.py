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
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from eplb import loadstats
from eplb.common import UserError, reading, replacing
from eplb.jsonstream import BadJson, items_of, table_of
from eplb.placement import Deployment

# Records per window of the public file, which does not say so itself.
PUBLIC_INTERVAL = 100

# The model that `Deployment`'s defaults are for is DeepSeek-V3, with so many experts.
DEFAULT_EXPERTS = 256


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
    """A recorded load history: ``loads`` [records, layers, experts] int64, tokens per expert.

    No message names the file, which a trace does not know.
    """

    loads: np.ndarray
    header: TraceHeader = TraceHeader()

    def stating(self, **given: int | None) -> Trace:
        """The same loads under a header that says what is ``given``, but for what is None."""
        known = {name: value for name, value in given.items() if value is not None}
        return replace(self, header=replace(self.header, **known))

    def deployment(self) -> Deployment:
        """The deployment to place on: the header's sizes, else the defaults.

        Raises `UserError` for sizes that do not fit the experts, or that nobody has named: the
        defaults would score a recording made elsewhere on the wrong GPUs.
        """
        experts = self.loads.shape[2]
        sizes = {field.name: getattr(self.header, field.name) for field in fields(Deployment)}
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

    def interval(self) -> int:
        """Records per window: the header's, else 100 as in the public file.

        Raises `UserError` where that leaves fewer than two windows, one to learn from and one to
        be judged on.
        """
        records, interval = len(self.loads), self.header.rebalance_interval
        interval = PUBLIC_INTERVAL if interval is None else interval
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

    def records(self) -> np.ndarray:
        """[windows, records per window, layers, experts] int64: the records of whole windows.

        Those left over after the last are dropped. A shorter window would be noisier than the
        others and yet weigh as much as they do in a mean over windows, so that the score would
        depend on where the recording happened to stop.
        """
        interval = self.interval()
        whole = len(self.loads) // interval * interval
        return self.loads[:whole].reshape(-1, interval, *self.loads.shape[1:])

    def windows(self) -> np.ndarray:
        """`History.windows`, where nothing needs to be learned or judged."""
        return History(self.records()).windows


@dataclass(frozen=True)
class History:
    """A trace cut into windows.

    records: [windows, records per window, layers, experts] int64, tokens routed to each expert
    """

    records: np.ndarray

    @classmethod
    def of(cls, trace: Trace) -> History:
        """``trace`` in windows, as `Trace.records` cuts them.

        Raises `UserError` where nothing can be learned or judged. Single windows and layers may be
        without tokens: they have no balancedness, and averages leave them out.
        """
        history = cls(trace.records())
        for part, verb in ((history.seen, "shown"), (history.windows[1:], "judged on")):
            if not part.any():
                raise UserError(
                    f"no window that a program is {verb} has any token in it; record some traffic"
                )
        return history

    @cached_property
    def windows(self) -> np.ndarray:
        """[windows, layers, experts] int64: the sums over a window's records."""
        return self.records.sum(axis=1, dtype=np.int64)

    @property
    def seen(self) -> np.ndarray:
        """The windows that a program is shown: all but the last, which only scores."""
        return self.windows[:-1]


def read_trace(path: str | os.PathLike) -> Trace:
    """Read a trace file, also a gzipped one; on a terminal, a bar shows how far it is.

    Raises `UserError` with file, record and layer for anything unusable.
    """
    path = Path(path)
    try:
        if loadstats.recognises(path):
            told = [("source", "load statistics"), ("rebalance_interval", 1)]
            return _read(f"trace {path}", chain(told, loadstats.items_of(path)))
        if path.is_dir():
            raise UserError(f"trace {path} is a directory; name the expert-load.json in it")
        with path.open("rb") as file:
            packed = file.peek(2).startswith(b"\x1f\x8b")
            items = items_of(gzip.open(file) if packed else file, "load_history")
            return _read(f"trace {path}", _tables(reading(items, file), path))
    except (BadJson, EOFError, gzip.BadGzipFile, zlib.error) as error:
        what = str(error) if isinstance(error, BadJson) else f"is cut off or damaged ({error})"
        raise UserError(f"trace {path} {what}; record or download it again") from error
    except FileNotFoundError as error:
        raise UserError(
            f"trace {path} does not exist; name an existing file, or write a synthetic one "
            f"with python -m eplb.workload_model --output {path}"
        ) from error
    except OSError as error:
        reason = f"{error.strerror}; name a readable file"
        raise UserError(f"cannot read trace {path}: {reason}") from error


def _tables(items: Iterable[tuple[str, Any]], path: Path) -> Iterator[tuple[str, Any]]:
    """The items of a trace file, each record as its loads after the words for its place."""
    number = count()
    for key, value in items:
        if key == "load_history":
            rows = value.get("logical_expert_load") if isinstance(value, dict) else None
            place = f"record {next(number)}"
            table = table_of(rows, f"trace {path}: logical_expert_load of {place}", "expert")
            value = f"trace {path}: {place}", table
        yield key, value


def _read(where: str, items: Iterable[tuple[str, Any]]) -> Trace:
    header: dict[str, Any] = {}
    records: list[np.ndarray] = []
    for key, value in items:
        if key != "load_history":
            header[key] = value
            continue
        place, load = value
        # Four bytes a number where they suffice.
        records.append(load.astype(np.int32) if load.max() <= np.iinfo(np.int32).max else load)
        if load.shape != records[0].shape:
            (layers, experts), first = load.shape, records[0].shape
            raise UserError(
                f"{place} has {layers} layers x {experts} experts, the first one "
                f"{first[0]} x {first[1]}; keep one model a file"
            )
    if not records:
        raise UserError(f"{where}: load_history has no records; record a longer history")
    return Trace(np.stack(records, dtype=np.int64), _checked_header(where, header))


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

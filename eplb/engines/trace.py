"""This project's own load histories: a recording becomes a trace, and a trace a recording.

The file format and its rules are those of `eplb.trace`; ``evaluate.py --trace`` and ``run_evo.py``
accept what is written here. A trace numbers MoE layers from 0 and has no row for dense layers.
"""

from __future__ import annotations

from pathlib import Path

from eplb import trace as traces
from eplb.common import UserError
from eplb.engines.model import EnginePlacement, ExpertStatistics, statistics_from_rows
from eplb.engines.source import Source

SUFFIXES = (".json",)
WINDOWS = 10  # at least so many to score a program on, however few records there are


def recognises(source: Source) -> bool:
    return source.looks_like_json and (
        b'"load_history"' in source.head or source.json_has("load_history")
    )


def read(source: Source, start: int | None = None, stop: int | None = None) -> ExpertStatistics:
    trace = traces.read_trace(source.path)
    statistics = statistics_from_rows(
        str(source), trace.loads, top_k=trace.header.top_k, moe_layers_only=True
    )
    return statistics.between(start, stop)


def write(path: Path, content: ExpertStatistics | EnginePlacement) -> None:
    """Write a trace with one record per iteration and an interval that leaves several windows."""
    if isinstance(content, EnginePlacement):
        raise UserError("a trace holds statistics, not placements; choose another --format")
    interval = min(100, len(content.loads) // WINDOWS)
    if interval < 1:
        raise UserError(
            f"a trace needs at least {WINDOWS} iterations to score programs on, "
            f"these are {len(content.loads)}; record more"
        )
    header = traces.TraceHeader(
        source=f"expert statistics of iterations {content.iterations.start} to "
        f"{content.iterations[-1]}, layers {content.layers[0]} to {content.layers[-1]}",
        top_k=content.top_k,
        steps_per_record=1,
        rebalance_interval=interval,
    )
    traces.write_trace(path, traces.Trace(content.loads, header))

"""This project's own load histories: a recording becomes a trace, and a trace a recording.

The file format and its rules are those of `eplb.trace`; ``evaluate.py --trace`` and ``run_evo.py``
accept what is written here. A trace numbers MoE layers from 0 and has no row for dense layers.
"""

from __future__ import annotations

from pathlib import Path

from eplb import trace as traces
from eplb.common import UserError
from eplb.engines.model import ExpertStatistics, Format
from eplb.engines.reading import statistics_of
from eplb.engines.source import Source

WINDOWS = 10  # at least so many to score a program on, however few records there are


def recognises(source: Source) -> bool:
    """By the first bytes where they tell, since a trace is large."""
    return source.looks_like_json and (
        b'"load_history"' in source.head or source.has("load_history")
    )


def read(source: Source) -> ExpertStatistics:
    try:
        trace = traces.read_trace(source.file)
    except UserError as error:
        # A gzipped trace is read from its unpacked copy.
        raise UserError(str(error).replace(str(source.file), str(source))) from error
    header = trace.header
    return statistics_of(
        source,
        trace.loads,
        top_k=header.top_k,
        steps_per_iteration=header.steps_per_record,
        num_groups=header.num_groups,
        num_ranks=header.num_gpus,
        num_slots=header.num_replicas,
        num_nodes=header.num_nodes,
    )


def write_statistics(path: Path, statistics: ExpertStatistics) -> None:
    """Write a trace with one record per iteration and an interval that leaves several windows."""
    iterations, layers = statistics.iterations, statistics.layers
    interval = min(100, len(iterations) // WINDOWS)
    if interval < 1:
        raise UserError(
            f"a trace needs at least {WINDOWS} iterations to score programs on, "
            f"these are {len(iterations)}; record more"
        )
    known = statistics.deployment or statistics
    header = traces.TraceHeader(
        source=f"expert statistics of iterations {iterations.start} to {iterations[-1]}, "
        f"layers {layers[0]} to {layers[-1]}",
        top_k=statistics.top_k,
        steps_per_record=statistics.steps_per_iteration or 1,
        rebalance_interval=interval,
        num_replicas=getattr(known, "num_replicas", statistics.num_slots),
        num_groups=known.num_groups,
        num_nodes=known.num_nodes,
        num_gpus=statistics.num_ranks,
    )
    traces.write_trace(path, traces.Trace(statistics.loads, header))


FORMAT = Format(
    "trace",
    recognises,
    read,
    write_statistics=write_statistics,
    suffixes=(".json",),
    how_to_use="score programs on it with: python evaluate.py --program_path "
    "programs/balanced.py --trace {path}",
    numbers_moe_layers=True,
)

"""This project's own load histories: a recording becomes a trace, and a trace a recording.

The file formats and their rules are those of `eplb.trace`, which ``evaluate.py --trace`` and
``run_evo.py`` read; an engine's load statistics (`eplb.loadstats`), such as the folder
``EPLB_VLLM_RECORD``, are read as well. Both number MoE layers from 0 and have no dense layers. Not
covered: writing load statistics (`eplb.engines.vllm_proposals`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eplb import loadstats
from eplb import trace as traces
from eplb.common import UserError
from eplb.engines.model import ExpertStatistics, Format
from eplb.engines.reading import statistics_of
from eplb.engines.source import Source

WINDOWS = 10  # at least so many to score a program on, however few records there are


def recognises(source: Source) -> bool:
    """By the first bytes where they tell, since both are large."""
    if loadstats.recognises(source.file):
        return True
    return source.looks_like_json and (
        b'"load_history"' in source.head or source.has("load_history")
    )


def read(source: Source) -> ExpertStatistics:
    try:
        trace = traces.read_trace(source.file)
    except UserError as error:
        # A gzipped file is read from its unpacked copy.
        raise UserError(str(error).replace(str(source.file), str(source))) from error
    return statistics_of(source, trace.loads, header=trace.header)


def write_statistics(path: Path, statistics: ExpertStatistics) -> None:
    """Write a trace with one record per iteration and an interval that leaves several windows."""
    iterations, layers = statistics.iterations, statistics.layers
    interval = min(100, len(iterations) // WINDOWS)
    if interval < 1:
        raise UserError(
            f"a trace needs at least {WINDOWS} iterations to score programs on, "
            f"these are {len(iterations)}; record more"
        )
    deployment = statistics.deployment
    header = replace(
        statistics.header,
        source=f"expert statistics of iterations {iterations.start} to {iterations[-1]}, "
        f"layers {layers[0]} to {layers[-1]}",
        seed=None,
        steps_per_record=statistics.header.steps_per_record or 1,
        rebalance_interval=interval,
        **(vars(deployment) if deployment else {}),
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

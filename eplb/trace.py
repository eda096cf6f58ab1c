"""Load histories in memory and on disk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TraceHeader:
    """Where a trace comes from; every field may be unknown.

    model: name of the served model
    source: how the records were obtained
    seed: of a synthetic trace
    top_k: experts per token
    num_groups: expert groups of the model's routing
    steps_per_record: engine steps that one record sums up
    rebalance_interval: records per window
    """

    model: str | None = None
    source: str | None = None
    seed: int | None = None
    top_k: int | None = None
    num_groups: int | None = None
    steps_per_record: int | None = None
    rebalance_interval: int | None = None


@dataclass(frozen=True)
class Trace:
    """A recorded load history: ``loads`` [records, layers, experts] integers, tokens per expert."""

    loads: np.ndarray
    header: TraceHeader = TraceHeader()

"""Runs a candidate in its own sandboxed process and times it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eplb.placement import Deployment


class Refused(Exception):
    """The program broke a rule, failed or took too long; the message is the reason."""


@dataclass(frozen=True)
class Answer:
    """The three maps as the program gave them: int64 arrays, unchecked otherwise."""

    phy2log: np.ndarray
    log2phy: np.ndarray
    logcnt: np.ndarray


@dataclass(frozen=True)
class Run:
    """One fresh process that answered every window in order.

    seconds: [windows] float64, wall time of each call
    stage_seconds: what the program itself says of its stages; empty if it says nothing
    """

    answers: list[Answer]
    seconds: np.ndarray
    stage_seconds: dict[str, float] = field(default_factory=dict)


class Sandbox:
    """A process that has imported torch and forks a fresh child for every run.

    timeout: seconds that one run may take
    isolation: after start, what keeps the program in, e.g. "bubblewrap + seccomp"
    """

    isolation: str

    def __init__(self, timeout: float = 60.0) -> None: ...

    def __enter__(self) -> Sandbox: ...

    def __exit__(self, *exc) -> None: ...

    def run(self, program: Path, windows: np.ndarray, deployment: Deployment) -> Run:
        """Answer ``windows`` [windows, layers, experts] one at a time; raise `Refused`."""

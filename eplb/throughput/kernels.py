"""The time that a MoE layer takes on one GPU, from its slots and the tokens that reach it.

    read = floor(slots) + active_ms * active
    compute = base_ms + row_ms * rows + token_ms * tokens
    t = (read^p + compute^p)^(1/p)

Reading weights and computing overlap more or less, as p says. The
constants are fitted to measured kernels by ``python -m eplb.bench.kernels``, which also prints how
far off each is; `kernels.json` has them with their source and errors. Not covered: attention, the
exchange of tokens, and what is uneven between the slots of a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from eplb.common import UserError


@dataclass(frozen=True)
class Regime:
    """The constants for steps of ``fewest`` to ``most`` tokens, all in milliseconds.

    slots, floor_ms: slots of a GPU that were measured, and what a layer takes there at least;
        linear between them, and constant beyond
    active_ms: for each slot that has a token
    base_ms, row_ms, token_ms: for computing at all, each row (a token for one slot), and each token
        of the step over all GPUs
    power: p, from 1 (one after the other) up to infinity (entirely at once)
    """

    fewest: int
    most: int
    slots: Sequence[int]
    floor_ms: Sequence[float]
    active_ms: float
    base_ms: float
    row_ms: float
    token_ms: float
    power: float

    def ms(self, slots, active, rows, tokens: float, size: float) -> np.ndarray:
        floor = np.interp(slots, self.slots, self.floor_ms) + size * self.active_ms * active
        compute = self.base_ms + size * self.row_ms * rows + self.token_ms * tokens
        # The larger of the two apart: powers of milliseconds would leave the range of floats.
        larger, smaller = np.maximum(floor, compute), np.minimum(floor, compute)
        return larger * (1.0 + (smaller / larger) ** self.power) ** (1.0 / self.power)


@dataclass(frozen=True)
class Kernel:
    """A measured kernel.

    table, dtype: where it was measured, and the weights' type
    bytes_per_expert: of the experts that it was measured with
    measured, median_error, worst_error: rows of the table, and how far off they are (relative)
    regimes: with rising numbers of tokens
    """

    name: str
    table: str
    dtype: str
    bytes_per_expert: float
    measured: int
    median_error: float
    worst_error: float
    regimes: tuple[Regime, ...]

    def ms(self, slots, active, rows, tokens: float, size: float = 1.0) -> np.ndarray:
        """Milliseconds of a layer; the first three are arrays that broadcast.

        slots: of the GPU; active: those with at least one token; rows: tokens, counted once for
        every slot they go to; tokens: of the step, over all GPUs; size: of an expert, relative to
        those measured, by which both its weights and its computation grow
        """
        below = self.regimes[0].ms(slots, active, rows, tokens, size)
        for lower, upper in zip(self.regimes, self.regimes[1:]):
            # Between two regimes time goes from one to the other, as straight lines on paper with
            # logarithmic axes.
            gone = np.log(max(tokens, 1) / lower.most) / np.log(upper.fewest / lower.most)
            share = float(np.clip(gone, 0.0, 1.0))
            below = below ** (1 - share) * upper.ms(slots, active, rows, tokens, size) ** share
        return below


@cache
def kernels() -> dict[str, Kernel]:
    """The measured kernels by name."""
    text = files(__package__).joinpath("kernels.json").read_text(encoding="utf-8")
    found = {}
    for name, known in json.loads(text)["kernels"].items():
        regimes = tuple(Regime(**regime) for regime in known.pop("regimes"))
        found[name] = Kernel(name, regimes=regimes, **known)
    return found


def kernel(name: str) -> Kernel:
    if name not in kernels():
        raise UserError(f"there is no kernel {name}; there are {', '.join(kernels())}")
    return kernels()[name]

"""A linear or logarithmic axis of a figure: from values to pixels, and readable tick values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

# Room beyond the outermost values, as a share of the range, so that no mark sits on the frame.
PADDING = 0.04


@dataclass(frozen=True)
class Axis:
    """Maps ``low`` … ``high`` to the pixels ``start`` … ``end``; ``end`` may be the smaller one."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    @classmethod
    def around(
        cls, values: Iterable[float], start: float, end: float, *, logarithmic: bool = False
    ) -> Axis:
        """The axis that shows all ``values`` with a little room; positive ones if logarithmic."""
        values = [math.log10(v) for v in values] if logarithmic else list(values)
        low, high = min(values), max(values)
        # A single value still needs a range: a tenth of it, or of a decade.
        room = (high - low) * PADDING or (0.1 if logarithmic else abs(high) * 0.1 or 1.0)
        low, high = low - room, high + room
        return (
            cls(10**low, 10**high, start, end, True) if logarithmic else cls(low, high, start, end)
        )

    def at(self, value: float) -> float:
        """The pixel of ``value``."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """(pixel, label) of up to about ``most`` round values within the axis."""
        values = self._decades(most) if self.logarithmic else self._steps(most)
        return [(self.at(value), f"{value:,.10g}") for value in values]

    def _steps(self, most: int) -> list[float]:
        """Multiples of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(i * step, 12) for i in range(first, last + 1)]

    def _decades(self, most: int) -> list[float]:
        """Powers of ten, with 2 and 5 times them where that stays readable."""
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for multiples in ((1, 2, 5), (1, 3), (1,)):
            values = [m * 10.0**e for e in exponents for m in multiples]
            values = [v for v in values if self.low <= v <= self.high]
            if len(values) <= most + 3:
                break
        if len(values) < 2:
            linear = Axis(self.low, self.high, self.start, self.end)
            return [v for v in linear._steps(most) if v > 0]
        return values[:: -(-len(values) // (most + 3))]


def spread(positions: list[float], gap: float) -> list[float]:
    """Move labels apart along one line until neighbours are ``gap`` pixels apart, order kept."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    placed = list(positions)
    for before, after in pairwise(order):
        placed[after] = max(placed[after], placed[before] + gap)
    if order:
        # What was pushed down is shared evenly, so that the group stays around its lines.
        shift = sum(placed[i] - positions[i] for i in order) / len(order)
        placed = [place - shift for place in placed]
    return placed

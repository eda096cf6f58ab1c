"""Normal random numbers that stay the same from one numpy to the next.

Covered: independent streams by purpose. Not covered: speed, and anything but normal numbers.
"""

from __future__ import annotations

import numpy as np


class Draws:
    """Standard normal numbers for one purpose, independent of every other purpose's."""

    def __init__(self, seed: int, purpose: str, step: int = 0) -> None:
        entropy = [seed, step, *purpose.encode()]
        self._words = np.random.PCG64(np.random.SeedSequence(entropy))

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Box and Muller's transform of raw words: numpy promises to keep those, and only those."""
        count = int(np.prod(shape))
        words = self._words.random_raw(2 * count) >> np.uint64(11)
        uniform = (words + 0.5) * 2.0**-53
        radius = np.sqrt(-2 * np.log(uniform[:count]))
        return (radius * np.cos(2 * np.pi * uniform[count:])).reshape(shape)


def wander(draws: Draws, deviation: float, keep: float, shape: tuple[int, ...]) -> np.ndarray:
    """First-order autoregressive noise along the first axis, of the given stationary deviation."""
    fresh = draws.normal(shape)
    path = fresh.copy()
    for step in range(1, shape[0]):
        path[step] = keep * path[step - 1] + np.sqrt(1 - keep**2) * fresh[step]
    return deviation * path

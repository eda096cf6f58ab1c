"""Balancedness over speed: the front that nothing dominates, and the leaderboard's plot of it.

Not covered: the measuring, see `eplb.leaderboard`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eplb.files import replacing

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b4c9a", "#8c5a2b")
_MARKERS = "osD^vP*X<>ph"


@dataclass(frozen=True)
class Point:
    """A program in a scenario: ``speed`` is the seed's time over its own."""

    program: str
    speed: float
    balancedness: float


def front(points: list[Point]) -> list[Point]:
    """The points that no other beats in both speed and balancedness, fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.speed, -point.balancedness)):
        if not best or point.balancedness > best[-1].balancedness:
            best.append(point)
    return best


def draw(panels: list[tuple[str, list[Point]]], path: Path) -> None:
    """One panel a scenario, with its front as a line, and one legend for all; written whole.

    panels: each scenario's name and points
    """
    # Only this function needs matplotlib, whose import takes longer than a table.
    from matplotlib.figure import Figure

    programs = list(dict.fromkeys(point.program for _, points in panels for point in points))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.9 * columns, 3.0 * lines + 0.9), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    handles = {}
    for axis, (name, points) in zip(axes, panels):
        best = front(points)
        axis.step(
            [point.speed for point in best],
            [point.balancedness for point in best],
            where="post",
            color="#bbbbbb",
            linewidth=1,
            zorder=1,
        )
        for point in points:
            number = programs.index(point.program)
            handles[point.program] = axis.scatter(
                point.speed,
                point.balancedness,
                s=42,
                marker=_MARKERS[number % len(_MARKERS)],
                facecolor=_COLOURS[number % len(_COLOURS)],
                edgecolor="white",
                linewidth=0.6,
                zorder=2,
            )
        axis.set_xscale("log")
        axis.margins(x=0.08, y=0.1)
        axis.set_title(name, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.grid(color="#eeeeee", linewidth=0.6)
        axis.set_axisbelow(True)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.supxlabel("speed (the seed's time over the program's)", fontsize=10)
    figure.supylabel("balancedness on the next window", fontsize=10)
    figure.legend(
        [handles[name] for name in programs],
        programs,
        loc="outside lower center",
        ncols=6,
        fontsize=9,
        frameon=False,
    )
    with replacing(path) as partial:
        figure.savefig(partial, dpi=130)

"""The leaderboard's plot: balancedness over speed, with the front that nothing dominates.

Not covered: the measuring, see `eplb.bench.leaderboard`, and the plot of a run, see `eplb.report`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eplb.common import pareto_front, replacing

_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c5a2b")
_MARKERS = "osD^vP>X<pdh"


@dataclass(frozen=True)
class Point:
    """A program in a scenario.

    speed: the seed's time over its own
    shipped: whether it is one of this project's, drawn filled where others are hollow
    """

    program: str
    speed: float
    balancedness: float
    shipped: bool = True


def draw(scenarios: list[tuple[str, list[Point]]], path: Path) -> None:
    """One panel a scenario, with its front as a line, and one legend for all; written whole.

    scenarios: the name and points of each
    """
    # Only this function needs matplotlib, whose import takes longer than a table.
    from matplotlib.figure import Figure

    shipped = {point.program: point.shipped for _, points in scenarios for point in points}
    programs = sorted(shipped, key=lambda name: not shipped[name])
    styles = {name: _style(place, shipped[name]) for place, name in enumerate(programs)}
    columns = min(3, len(scenarios))
    lines = -(-len(scenarios) // columns)
    figure = Figure(figsize=(3.9 * columns, 3.0 * lines + 0.8), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    panels = figure.subplots(lines, columns, squeeze=False)
    handles = {}
    for panel, (name, points) in zip(panels.ravel(), scenarios):
        handles |= _draw_panel(panel, points, styles)
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("speed, the seed's = 1", fontsize=9)
    for panel in panels[:, 0]:
        panel.set_ylabel("balancedness", fontsize=9)
    for panel in panels.ravel()[len(scenarios) :]:
        panel.set_axis_off()
    figure.legend(
        [handles[name] for name in programs],
        programs,
        loc="outside lower center",
        ncols=min(6, 2 * columns),
        fontsize=9,
        frameon=False,
    )
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)


def _style(place: int, shipped: bool) -> dict[str, object]:
    """The look of the program at ``place`` in the legend."""
    colour = _COLOURS[place % len(_COLOURS)]
    return {
        "marker": _MARKERS[place % len(_MARKERS)],
        "facecolor": colour if shipped else "none",
        "edgecolor": "white" if shipped else colour,
        "linewidth": 0.7 if shipped else 1.3,
        # Smaller ones lie on top, so that programs which do the same all show.
        "s": max(96 - 6 * place, 36),
        "zorder": 2 + place,
    }


def _draw_panel(panel, points: list[Point], styles: dict[str, dict]) -> dict[str, object]:
    """Draw on the matplotlib axes ``panel``; returns each program's drawn mark."""
    best = pareto_front(points, lambda point: (point.speed, point.balancedness))
    panel.step(
        [point.speed for point in best],
        [point.balancedness for point in best],
        where="post",
        color="#aaaaaa",
        linewidth=1,
        zorder=1,
    )
    marks = {
        point.program: panel.scatter(point.speed, point.balancedness, **styles[point.program])
        for point in points
    }
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.margins(x=0.08, y=0.1)
    panel.tick_params(labelsize=8)
    panel.grid(color="#eeeeee", linewidth=0.6)
    panel.set_axisbelow(True)
    return marks

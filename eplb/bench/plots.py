"""The picture of what was measured: a panel each, programs as marks, and one legend for all.

Not covered: the measuring (`eplb.bench.leaderboard`, `eplb.bench.growth`) and the pictures of one
evaluation (`eplb.evaluation.plots`) and of one run (`eplb.report`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from eplb.common import replacing

_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c5a2b")
_MARKERS = "osD^vP>X<pdh"
_WIDTH, _HEIGHT = 3.9, 3.0


@dataclass(frozen=True)
class Panel:
    """What one panel shows, as lists of x and of y.

    programs: by name, one point or several that a line joins
    guide: a grey line to compare them with
    """

    title: str
    programs: dict[str, tuple[list[float], list[float]]]
    guide: tuple[list[float], list[float]]


def draw(
    path: Path,
    title: str,
    panels: list[Panel],
    axes: tuple[str, str],
    guide: str,
    others: set[str] = frozenset(),
    yscale: str = "linear",
) -> None:
    """Draw ``panels`` on x axes of one scale, and write the picture whole.

    axes: labels of x, which is logarithmic, and of y
    guide: what the grey lines are
    others: programs that are not this project's: drawn hollow, and last in the legend
    """
    # Only this function needs matplotlib, whose import takes longer than a table.
    from matplotlib.figure import Figure

    names = dict.fromkeys(name for panel in panels for name in panel.programs)
    names = sorted(names, key=others.__contains__)
    styles = {name: _style(place, name in others) for place, name in enumerate(names)}
    columns = math.ceil(math.sqrt(len(panels)))
    rows = -(-len(panels) // columns)
    size = (max(6.4, _WIDTH * columns), max(4.6, _HEIGHT * rows + 1.1))
    figure, axis, handles = Figure(figsize=size, layout="constrained"), None, {}
    for place, panel in enumerate(panels, 1):
        axis = figure.add_subplot(rows, columns, place, sharex=axis)
        for name, points in panel.programs.items():
            [handles[name]] = axis.plot(*points, **styles[name])
        if len(panel.guide[0]) > 1:
            [handles[guide]] = axis.plot(*panel.guide, color="#999999", linewidth=1, zorder=1)
        axis.set(xscale="log", yscale=yscale, title=panel.title)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.margins(0.08)
        axis.grid(color="#e6e6e6", linewidth=0.6)
        if place > len(panels) - columns:
            axis.set_xlabel(axes[0])
    figure.suptitle(title)
    figure.supylabel(axes[1])
    order = [name for name in (*names, guide) if name in handles]
    marks, ncols = [handles[name] for name in order], 1 + 2 * min(2, columns)
    figure.legend(marks, order, loc="outside lower center", ncols=ncols, frameon=False)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)


def _style(place: int, hollow: bool) -> dict[str, object]:
    """The look of the program at ``place`` in the legend."""
    colour = _COLOURS[place % len(_COLOURS)]
    return {
        "color": colour,
        "marker": _MARKERS[place % len(_MARKERS)],
        "markerfacecolor": "none" if hollow else colour,
        "markeredgecolor": colour if hollow else "white",
        "markeredgewidth": 1.3 if hollow else 0.7,
        # Smaller ones lie on top, so that programs which do the same all show.
        "markersize": max(9.8 - 0.35 * place, 6),
        "zorder": 2 + place,
    }

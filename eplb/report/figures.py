"""The three figures of the page, as positions of marks; the templates draw them as inline SVG.

Drawn by hand and not by a plotting library, because the marks then follow the reader's light or
dark theme, carry text that can be found and read aloud, and cost no second of start-up.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from eplb.evolution.rundb import Program
from eplb.report.axis import Axis, spread
from eplb.report.history import Exchange, Island

WIDTH = 760
LEFT, RIGHT, TOP, BOTTOM = 64, 132, 14, 44
COLOURS = 8


@dataclass(frozen=True)
class Mark:
    """A program at a place."""

    x: float
    y: float
    program: Program
    colour: int = 0


@dataclass(frozen=True)
class Line:
    """A curve of one island and its label at the right end."""

    path: str
    colour: int
    island: Island
    label_y: float
    end_y: float


@dataclass(frozen=True)
class Figure:
    """What every figure has: a size, and ticks as (pixel, label)."""

    height: int
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    width: int = WIDTH
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP

    @property
    def bottom(self) -> int:
        return self.height - BOTTOM


@dataclass(frozen=True, kw_only=True)
class ScoreFigure(Figure):
    """Best score so far over generations, a line for each island; every program a dot."""

    lines: list[Line]
    dots: list[Mark]
    arrivals: list[Mark]
    best: Mark
    seed_y: float | None


def score_figure(
    programs: Sequence[Program], known: Sequence[Island], best: Program, seed: Program | None
) -> ScoreFigure:
    """Place the best score of each island over the generations."""
    height = 360
    scored = [p for p in programs if p.score is not None and not p.is_copy]
    last = max(p.generation for p in programs)
    x = Axis(0, max(last, 1), LEFT, WIDTH - RIGHT)
    y = Axis.around([p.score for p in scored], height - BOTTOM, TOP)
    alive = [island for island in known if island.steps]
    ends = [y.at(island.best.score) for island in alive]
    labels = spread(ends, 17)
    return ScoreFigure(
        height=height,
        x_ticks=_generations(x),
        y_ticks=y.ticks(),
        lines=[
            Line(_staircase(island, x, y), island.index % COLOURS, island, label, end)
            for island, label, end in zip(alive, labels, ends, strict=True)
        ],
        dots=[Mark(x.at(p.generation), y.at(p.score), p, p.birth_island % COLOURS) for p in scored],
        arrivals=[
            Mark(x.at(s.generation), y.at(s.program.score), s.program, island.index % COLOURS)
            for island in alive
            for s in island.steps
            if s.arrived_from is not None
        ],
        best=Mark(x.at(best.generation), y.at(best.score), best),
        seed_y=y.at(seed.score) if seed and seed.score is not None else None,
    )


def _generations(x: Axis) -> list[tuple[float, str]]:
    """Ticks of whole generations."""
    return [(at, label) for at, label in x.ticks(8) if "." not in label]


def _staircase(island: Island, x: Axis, y: Axis) -> str:
    first = island.steps[0]
    path = [f"M{x.at(first.generation):.1f} {y.at(first.program.score):.1f}"]
    for step in island.steps[1:]:
        path.append(f"H{x.at(step.generation):.1f}V{y.at(step.program.score):.1f}")
    return "".join([*path, f"H{x.at(x.high):.1f}"])


@dataclass(frozen=True, kw_only=True)
class ParetoFigure(Figure):
    """Balancedness against time of a call; ``front`` is joined by the staircase ``path``."""

    dots: list[Mark]
    front: list[Mark]
    path: str
    seed: Mark | None
    best: Mark | None


def pareto_figure(
    programs: Sequence[Program], front: Sequence[Program], best: Program, seed: Program | None
) -> ParetoFigure | None:
    """Place every timed program; None where no program tells its balancedness and time."""
    height, right = 420, WIDTH - 56
    timed = [p for p in programs if p.milliseconds and p.balancedness is not None and not p.is_copy]
    if not timed:
        return None
    x = Axis.around([p.milliseconds for p in timed], LEFT, right, logarithmic=True)
    y = Axis.around([p.balancedness for p in timed], height - BOTTOM, TOP)
    marks = {p.id: Mark(x.at(p.milliseconds), y.at(p.balancedness), p) for p in timed}
    on_front = [marks[p.id] for p in front if p.id in marks]
    # What the front dominates lies right of and below this staircase.
    path = [f"M{on_front[0].x:.1f} {height - BOTTOM}V{on_front[0].y:.1f}"]
    path += [f"H{mark.x:.1f}V{mark.y:.1f}" for mark in on_front[1:]]
    path.append(f"H{right}")
    return ParetoFigure(
        height=height,
        right=right,
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        dots=[mark for mark in marks.values() if mark not in on_front],
        front=on_front,
        path="".join(path),
        seed=marks.get(seed.id) if seed else None,
        best=marks.get(best.id),
    )


@dataclass(frozen=True)
class Arrow:
    """Programs that moved between two islands at one generation."""

    path: str
    head: str
    width: float
    colour: int
    exchange: Exchange


@dataclass(frozen=True, kw_only=True)
class ExchangeFigure(Figure):
    """A lane for each island, and an arrow between lanes for each exchange."""

    lanes: list[tuple[Island, float]]
    arrows: list[Arrow]


def exchange_figure(
    programs: Sequence[Program], known: Sequence[Island], moves: Sequence[Exchange]
) -> ExchangeFigure:
    """Place the islands as lanes and their exchanges as arrows over the generations."""
    lane_height = 56
    lanes = [(island, TOP + lane_height * (i + 0.5)) for i, island in enumerate(known)]
    place = {island.index: y for island, y in lanes}
    last = max(p.generation for p in programs)
    x = Axis(0, max(last, 1), LEFT + 16, WIDTH - RIGHT)
    moments = defaultdict(list)
    for move in moves:
        moments[move.generation].append(move)
    # Arrows of one moment stand side by side, and stay clear of the next moment's.
    places = [x.at(generation) for generation in sorted(moments)]
    apart = 0.7 * min((b - a for a, b in pairwise(places)), default=places[0] if places else 0)
    arrows = []
    for generation, together in moments.items():
        for i, move in enumerate(together):
            offset = (i - (len(together) - 1) / 2) * min(11.0, apart / len(together))
            at = min(x.at(generation) + offset, WIDTH - RIGHT)
            arrows.append(_arrow(move, at, place[move.source], place[move.target]))
    return ExchangeFigure(
        height=TOP + lane_height * len(lanes) + BOTTOM,
        x_ticks=_generations(x),
        lanes=lanes,
        arrows=arrows,
    )


def _arrow(move: Exchange, x: float, start: float, end: float) -> Arrow:
    down = 1 if end > start else -1
    width = 1.0 + 0.7 * math.sqrt(len(move.programs))
    size = 3.0 + width
    tip = end - 3 * down
    return Arrow(
        path=f"M{x:.1f} {start:.1f}V{tip - down * size:.1f}",
        head=f"M{x:.1f} {tip:.1f}l{-size * 0.7:.1f} {-down * size * 1.4:.1f}h{size * 1.4:.1f}z",
        width=width,
        colour=move.source % COLOURS,
        exchange=move,
    )

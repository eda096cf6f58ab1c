"""The plot of balancedness over speed. `pytest tests/bench/test_pareto.py`"""

from __future__ import annotations

import matplotlib.figure

from eplb.bench.pareto import Point, draw


def test_the_legend_names_every_program_once_and_ours_first(tmp_path, monkeypatch):
    figures = []
    savefig = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda figure, *rest, **named: (figures.append(figure), savefig(figure, *rest, **named)),
    )
    theirs = [Point(f"theirs {n}", 1.0 + n, 0.5 + n / 100, shipped=False) for n in range(13)]
    ours = [Point("ours", 5.0, 0.9), Point("ours too", 5.0, 0.9)]
    path = tmp_path / "plot.png"
    draw([(f"scenario {n}", theirs[n:] + ours) for n in range(4)], path)
    legend = figures[0].legends[0]
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["ours", "ours too", *(point.program for point in theirs)]
    drawn = [panel for panel in figures[0].axes if panel.axison]
    assert [len(panel.collections) for panel in drawn] == [15, 14, 13, 12]
    looks = {
        (
            mark.get_paths()[0].vertices.tobytes(),
            tuple(mark.get_edgecolor()[0]),
            len(mark.get_facecolor()),
        )
        for mark in drawn[0].collections
    }
    assert len(looks) == 15
    assert path.stat().st_size > 1000


def test_one_scenario_and_one_program(tmp_path):
    draw([("only", [Point("only", 1.0, 0.5)])], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000

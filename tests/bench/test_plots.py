"""The picture of measured programs. `pytest tests/bench/test_plots.py`"""

from __future__ import annotations

import matplotlib.figure
import pytest

from eplb.bench.plots import Panel, draw

GUIDE = ([1.0, 2.0], [0.5, 0.6])


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    saved = []
    savefig = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda figure, *rest, **named: (saved.append(figure), savefig(figure, *rest, **named)),
    )
    return saved


def panel(number: int) -> Panel:
    theirs = {f"theirs {n}": ([1.0 + n], [0.5 + n / 100]) for n in range(number, 13)}
    ours = {"ours": ([5.0], [0.9]), "ours too": ([5.0, 6.0], [0.9, 0.8])}
    return Panel(f"scenario {number}", theirs | ours, GUIDE)


def test_one_legend_names_all_and_every_panel_has_the_same_scale(tmp_path, figures):
    path = tmp_path / "plot.png"
    others = {f"theirs {n}" for n in range(13)}
    draw(path, "title", [panel(n) for n in range(4)], ("speed", "balance"), "the front", others)
    assert path.stat().st_size > 1000
    [figure] = figures
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["ours", "ours too", *(f"theirs {n}" for n in range(13)), "the front"]
    drawn = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in drawn] == [f"scenario {n}" for n in range(4)]
    assert [len(axis.lines) for axis in drawn] == [16, 15, 14, 13]
    assert len({axis.get_xlim() for axis in drawn}) == len({axis.get_ylim() for axis in drawn}) == 1
    assert figure.get_suptitle() == "title"
    looks = {
        (line.get_marker(), line.get_color(), line.get_markerfacecolor()) for line in drawn[0].lines
    }
    assert len(looks) == 16


def test_one_panel_of_one_program(tmp_path, figures):
    only = Panel("only", {"only": ([1.0], [0.5])}, ([], []))
    draw(tmp_path / "plot.svg", "title", [only], ("x", "y"), "the front", yscale="log")
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")
    assert [axis.get_yscale() for axis in figures[0].axes] == ["log"]
    # A guide that is nowhere drawn has no place in the legend.
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["only"]

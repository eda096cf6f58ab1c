"""The figures as parts of the page: `pytest tests/report/test_figures.py`."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from eplb.report import figures, history
from eplb.report.page import TEMPLATES, tip
from eplb.report.program import Program, read
from tests.report.by_hand import program, timed


@pytest.fixture(scope="module")
def drawn(finished_run: Path) -> list[ElementTree.Element]:
    """The two figures of a run, parsed."""
    run = read(finished_run)
    front, known = history.pareto_front(run.programs), history.islands(run.programs)
    return [
        ElementTree.fromstring(text)
        for text in (
            figures.score_figure(run.programs, known, run.best, run.seed, tip),
            figures.pareto_figure(run.programs, front, run.best, run.seed, tip),
        )
    ]


def tips(figure: ElementTree.Element) -> list[str]:
    return [mark.findtext("title") for mark in figure.iter("use") if mark.get("class") == "mark"]


def test_every_program_is_a_mark_that_says_what_it_is(finished_run: Path, drawn) -> None:
    run = read(finished_run)
    own = [p for p in run.programs if p.score is not None and not p.is_copy]
    scores, pareto = map(tips, drawn)
    for each in own:
        told = tip(each)
        assert told in scores
        assert [t for t in pareto if t.endswith(told)]
    assert f"Best: {tip(run.best)}" in scores and f"Best: {tip(run.best)}" in pareto
    assert f"Seed: {tip(run.seed)}" in pareto
    front = {f"Pareto front. {tip(p)}" for p in history.pareto_front(run.programs)}
    assert {t for t in pareto if t.startswith("Pareto front. ")} == front
    assert any(t.startswith("Arrived from another island. ") for t in scores)


def test_text_is_text_and_colours_are_the_pages(drawn) -> None:
    sheet = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    for figure in drawn:
        texts = [element.text for element in figure.iter("text")]
        assert {"generation", "Pareto front"} & set(texts)
        colours = set()
        for element in figure.iter():
            assert "style" not in element.attrib and element.tag not in ("style", "metadata")
            colours |= {element.get(key) for key in ("fill", "stroke")} - {None, "none"}
        for colour in colours:
            [name] = re.findall(r"^var\((--\w+)\)$", colour)
            assert sheet.count(f" {name}: ") == 2, "one for light and one for dark"


def test_what_a_figure_refers_to_is_in_it_and_in_no_other(drawn) -> None:
    names = [{e.get("id") for e in figure.iter() if e.get("id")} for figure in drawn]
    assert not names[0] & names[1]
    for figure, own in zip(drawn, names, strict=True):
        text = ElementTree.tostring(figure, encoding="unicode")
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) == own


@pytest.mark.parametrize("name", ["<b>&amp;", "$x^2$", "\\frac", "a\u202eb", "_" * 300])
def test_names_are_only_ever_text(name: str) -> None:
    def named(each: Program) -> str:
        return name

    only = timed("a", 0.8, 2.0)
    text = figures.pareto_figure([only], [only], only, None, named)
    assert set(tips(ElementTree.fromstring(text))) == {f"Pareto front. {name}", f"Best: {name}"}


def test_nothing_to_place() -> None:
    alone = program("a", generation=0)
    assert figures.pareto_figure([alone], [], alone, alone, tip) is None
    text = figures.score_figure([alone], history.islands([alone]), alone, None, tip)
    assert tips(ElementTree.fromstring(text)) == [tip(alone), f"Best: {tip(alone)}"]

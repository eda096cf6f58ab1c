"""The page's text: what it must contain, and that nothing of a run can become markup.

Run it with `pytest tests/report/test_page.py`.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from eplb.report import page
from eplb.report.page import render, visible
from eplb.report.program import read
from tests.report.by_hand import HOSTILE, finalist, hostile_run, write_confirmation
from tests.report.document import Document


def test_nothing_of_a_run_becomes_markup(recorder) -> None:
    text = render(read(hostile_run(recorder)), time.time())
    document = Document.of(text)
    assert document.tags.count("script") == 1 and document.tags.count("style") == 1
    assert document.tags.count("b") == 2, "the two scores of the summary"
    assert not {"img", "iframe", "link", "object"} & set(document.tags)
    assert not [name for name, _ in document.attributes if name.startswith("on")]
    assert not [name for name, _ in document.attributes if name in ("src", "style", "action")]
    addresses = [value for name, value in document.attributes if name == "href"]
    assert all(re.fullmatch(r"#[a-z0-9-]+", address) for address in addresses)
    assert "{{ 7 * 7 }}" in document.text and "owned" in document.text
    # In the names, the code, the diffs, the failures: often, and always in full.
    assert text.count("&lt;script&gt;document.title") > 40


def test_every_template_escapes() -> None:
    assert page._environment().autoescape is True
    for template in page.TEMPLATES.glob("*.j2"):
        source = template.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe\b|autoescape|Markup", source), template.name


def test_the_policy_allows_only_our_own_script_and_style(finished_run: Path) -> None:
    text = render(read(finished_run), time.time())
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)[1]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert page._hash(script) in policy.replace("&#43;", "+")
    assert page._hash(style) in policy.replace("&#43;", "+")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain text", "plain text"),
        ("Größe – 数 🙂\n\tx", "Größe – 数 🙂\n\tx"),
        ("if admin\u202e # nimda", "if admin\\u202e # nimda"),
        ("zero\u200bwidth\x00\x1b[31m", "zero\\u200bwidth\\u0000\\u001b[31m"),
        ("half \ud800 of a pair", "half \\ud800 of a pair"),
        (None, "–"),
        (7, 7),
    ],
)
def test_what_hides_or_reorders_text_is_shown(value, shown) -> None:
    assert visible(value) == shown


def test_the_page_can_be_written_as_utf8(recorder) -> None:
    run = recorder()
    # JSON can hold half of a pair, which UTF-8 cannot.
    run.add(0, code="\x00\u202e", metadata={"patch_name": "\ud800\x00\u202e"})
    text = render(read(run.folder), time.time())
    assert "\\ud800\\u0000\\u202e" in text
    text.encode("utf-8")


def test_very_long_text_is_cut_and_says_so() -> None:
    cut = visible("x" * 1_000_000)
    assert len(cut) < 110_000 and "900,000 more characters" in cut


@pytest.mark.parametrize("generations", [0, 1, 12])
def test_runs_of_any_length(recorder, generations: int) -> None:
    run = recorder()
    seed = run.add(0, combined_score=0.2)
    for generation in range(1, generations + 1):
        run.add(generation, seed, combined_score=0.2 + generation / 100)
    text = render(read(run.folder), time.time())
    assert ("have not beaten the seed" in text) == (generations == 0)
    counted = f"{generations + 1} generation{'s' if generations else ''} on"
    assert counted in " ".join(text.split())
    assert "No program tells both its balancedness and its time per call" in text


def test_a_run_in_which_nothing_passed(recorder) -> None:
    run = recorder()
    seed = run.add(0, correct=False, text_feedback="Refused: no run_eplb")
    run.add(1, seed, correct=False)
    document = Document.of(render(read(run.folder), time.time()))
    assert "No program has passed its evaluation" in document.text
    assert "Refused: no run_eplb" in document.text


def test_what_was_confirmed_on_unseen_traces(recorder) -> None:
    run = recorder()
    seed = run.add(0, combined_score=0.2)
    run.add(1, seed, combined_score=0.9)
    run.add(2, seed, combined_score=0.8)
    assert "unseen traces" not in render(read(run.folder), time.time())
    rows = [finalist(1, 0.9, 0.4, 0.0), finalist(2, 0.8, 0.7, 0.6), finalist(0, 0.2, 0.2, 0.3)]
    rows[2]["name"] = rows[2]["scores"][0]["trace"] = HOSTILE
    write_confirmation(run.folder, {"winner": 2, "programs": rows})
    document = Document.of(render(read(run.folder), time.time()))
    table = "confirmation-table"
    programs = document.column(table, "Program")
    assert programs == ["edit 2 kept", "edit 0 seed", "edit 1"]
    assert document.column(table, "Unseen, mean") == ["0.6500", "0.2500", "0.2000"]
    assert document.column(table, "Difference") == ["−0.1500", "+0.0500", "−0.7000"]
    assert document.column(table, "kimi-k2") == ["0.6000", "0.3000", "refused"]
    assert "--preset kimi-k2 --seed 7" in document.text and "img" not in document.tags


def test_a_seed_that_failed_and_was_repaired(recorder) -> None:
    run = recorder()
    seed = run.add(0, correct=False)
    run.add(1, seed, combined_score=0.5, metadata={"patch_name": "repair"})
    document = Document.of(render(read(run.folder), time.time()))
    assert "reached a combined score of 0.5000" in " ".join(document.text.split())
    assert "Failed its evaluation; its child repaired it" in document.text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.01234, "0.0123"),
        (1.5, "1.50"),
        (480.4, "480"),
        (12345.6, "12,346"),
        (1e-9, "1.00e-09"),
    ],
)
def test_milliseconds(value, shown: str) -> None:
    assert page.milliseconds(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(3.21, "3.2 s"), (600, "10 min"), (5400, "1 h 30 min"), (0, "0.0 s")]
)
def test_duration(seconds: float, shown: str) -> None:
    assert page.duration(seconds) == shown


@pytest.mark.parametrize(
    ("dollars", "shown"), [(0, "$0.00"), (0.0123, "$0.0123"), (1234.5, "$1,234.50")]
)
def test_money(dollars: float, shown: str) -> None:
    assert page.money(dollars) == shown

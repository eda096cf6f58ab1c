"""From a run to one HTML page.

Everything that comes out of a results folder is untrusted: it is printed through Jinja2's
autoescape, control and direction-changing characters are made visible, and the page's content
security policy allows no request, and only our own script and style, by their hash. Not covered:
working out what happened (`eplb.report.history`, `eplb.report.accounts`).
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import math
import textwrap
import time
from collections.abc import Iterator
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eplb.evolution.rundb import Run
from eplb.report import accounts, figures, history, side_files
from eplb.report.program import Migration, Program

TEMPLATES = Path(__file__).with_name("templates")
NOTHING = "–"
LONGEST_TEXT = 100_000


def render(run: Run, written_at: float) -> str:
    """The page of ``run``, written at ``written_at`` (seconds since the epoch)."""
    programs = run.programs
    seed, best = run.seed, run.best
    known = history.islands(programs)
    front = history.pareto_front(programs)
    chain = history.lineage(best, programs) if best else []
    by_id = {p.id: p for p in programs}
    style, script = _asset("report.css"), _asset("report.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            run=run,
            written_at=written_at,
            style=style,
            script=script,
            style_hash=_hash(style),
            script_hash=_hash(script),
            own=[p for p in programs if not p.is_copy],
            by_id=by_id,
            number={p.id: i for i, p in enumerate(programs)},
            seed=seed,
            best=best,
            islands=known,
            front=front,
            lineage=chain,
            moves_before=_moves_before(chain),
            shown_for={p.id: [by_id[i] for i in p.inspirations if i in by_id] for p in chain},
            finalists=side_files.confirmed(run.folder),
            failures=accounts.failures(run),
            models=accounts.models(run),
            bill=accounts.bill(run),
            score_figure=best and figures.score_figure(programs, known, best, seed, tip),
            pareto_figure=best and figures.pareto_figure(programs, front, best, seed, tip),
        )
    )


def _moves_before(chain: list[Program]) -> dict[str, list[Migration]]:
    """The migrations of each program of a lineage before its child was made; all of the last."""
    made = [child.timestamp for child in chain[1:]]
    return {
        p.id: [move for move in p.migrations if move.timestamp <= child]
        for p, child in zip_longest(chain, made, fillvalue=math.inf)
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(
        score=lambda value: _number(value, ".4f"),
        trend=lambda change: "same" if abs(change) < 5e-5 else "up" if change > 0 else "down",
        signed=lambda value: _number(value, "+.4f"),
        ms=milliseconds,
        whole=lambda value: f"{value:,}",
        money=money,
        duration=duration,
        share=lambda part, whole: f"{part / whole:.0%}" if whole else NOTHING,
        day=lambda seconds: time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds)),
        generations=generations,
    )
    environment.globals.update(diff=diff_lines)
    return environment


def tip(program: Program) -> str:
    """What a figure's mark says when pointed at."""
    told = [f"score {_number(program.score, '.4f')}"]
    if program.balancedness is not None:
        told.append(f"balancedness {program.balancedness:.4f}")
    if program.milliseconds is not None:
        told.append(f"{milliseconds(program.milliseconds)} ms")
    name = textwrap.shorten(program.name, 80, placeholder="…")
    return visible(f"generation {program.generation}: {name}, {', '.join(told)}")


def visible(value: Any) -> Any:
    """What an expression of a template prints: text without anything that hides or reorders it.

    Control characters, lone surrogates and the marks that change the direction of text would make
    code look like other code, or the page unwritable as UTF-8; they appear as ``\\u202e``.
    """
    if value is None:
        return NOTHING
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    if len(value) > LONGEST_TEXT:
        value = f"{value[:LONGEST_TEXT]}… ({len(value) - LONGEST_TEXT:,} more characters)"
    if value.isascii() and value.isprintable():
        return value
    return "".join(c if _is_shown(c) else f"\\u{ord(c):04x}" for c in value)


def _is_shown(character: str) -> bool:
    return character.isprintable() or character in "\n\t\u00a0\u202f"


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form).replace("-", "−")


def milliseconds(value: float | None) -> str:
    """A time in milliseconds to three significant digits."""
    if value is None:
        return NOTHING
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{digits}f}" if digits <= 6 else f"{value:.2e}"


def money(value: float) -> str:
    """Dollars, to the cent where there are any, else to four digits."""
    return f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.4f}"


def duration(seconds: float) -> str:
    """A time that a person can judge: seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def generations(numbers: list[int]) -> str:
    """The first few generations of a list, and how many more there are."""
    first = sorted(set(numbers))
    shown = ", ".join(map(str, first[:8]))
    return shown if len(first) <= 8 else f"{shown} and {len(first) - 8} more"


def diff_lines(old: Program, new: Program) -> Iterator[tuple[str, str]]:
    """(kind, line) of the unified diff from ``old`` to ``new``; kind is the line's CSS class."""
    names = (f"generation {old.generation}", f"generation {new.generation}")
    kinds = {"+": "added", "-": "removed", "@": "place"}
    changes = difflib.unified_diff(
        old.code.splitlines(), new.code.splitlines(), *names, lineterm=""
    )
    for i, line in enumerate(changes):
        yield "place" if i < 2 else kinds.get(line[:1], "same"), line


def _asset(name: str) -> Markup:
    """One of our own files, to stand in the page as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _hash(content: str) -> str:
    """The source expression that allows exactly this inline script or style."""
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"

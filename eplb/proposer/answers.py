"""Writing a changed program in the form that ShinkaEvolve asked for.

ShinkaEvolve strips every blank line from a headless answer, applies each SEARCH to its first
occurrence, cuts a full rewrite at the first code fence, and corrupts the END marker on an empty
SEARCH. So a diff here consists of blocks without blank lines whose SEARCH occurs exactly once, and
every answer is checked to give the intended program after all that.
"""

from __future__ import annotations

import ast
import difflib

from eplb.proposer.program import END, START, Program, docstring_node, meaning

Hunk = tuple[str, str]  # SEARCH and REPLACE


def headed(name: str, description: str, body: str) -> str:
    return (
        f"<NAME>\n{name.lower()}\n</NAME>\n<DESCRIPTION>\n{description}\n</DESCRIPTION>\n{body}\n"
    )


def full_answer(changed: Program, language: str = "python") -> str | None:
    """The whole file in a fence, or None where it would not survive the transport."""
    text = changed.text
    if "```" in text:
        return None
    if not survives_without_blank_lines(changed):
        text = with_escaped_strings(changed).text
    return f"<CODE>\n```{language}\n{text.strip()}\n```\n</CODE>"


def survives_without_blank_lines(program: Program) -> bool:
    return _meaning_of(without_blank_lines(program.text)) == meaning(program.tree)


def with_escaped_strings(program: Program) -> Program:
    """Write strings that hold blank lines on one line, docstrings excepted."""
    documented = [docstring_node(node) for node in ast.walk(program.tree)]
    kept = {id(statement.value) for statement in documented if statement}
    edits = []
    for node in program.nodes(ast.Constant, ast.JoinedStr):
        if id(node) not in kept and "" in map(str.strip, program.source(node).split("\n")):
            edits.append((*program.span(node), ast.unparse(node)))
    return program.edited(edits)


def without_blank_lines(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.strip())


def diff_answer(parent: Program, changed: Program) -> str | None:
    """SEARCH/REPLACE blocks that turn the parent into the changed program, or None."""
    for merged in (2, 8, 10**6):
        hunks = _hunks(parent.text, changed.text, merged)
        if hunks and _applied(parent, hunks) == meaning(changed.tree):
            blocks = (f"<<<<<<< SEARCH\n{a}\n=======\n{b}\n>>>>>>> REPLACE" for a, b in hunks)
            return "<DIFF>\n" + "\n".join(blocks) + "\n</DIFF>"
    return None


def _applied(parent: Program, hunks: list[Hunk]) -> str | None:
    """What the parent means after the hunks, or None where one does not match exactly once."""
    text = "\n".join(line.rstrip() for line in parent.text.splitlines())
    for search, replace in hunks:
        if text.count(search) != 1 or any(mark in search + replace for mark in _MARKS):
            return None
        text = text.replace(search, replace)
    outside = _outside(text) == _outside("\n".join(map(str.rstrip, parent.text.splitlines())))
    return _meaning_of(text) if outside else None


_MARKS = (START, END, "<<<<<<<", "=======", ">>>>>>>")


def _outside(text: str) -> list[str]:
    """The lines outside the EVOLVE blocks, markers included."""
    inside, lines = False, []
    for line in text.split("\n"):
        inside = inside and END not in line
        if not inside:
            lines.append(line)
        inside = inside or START in line
    return lines


def _meaning_of(text: str) -> str | None:
    try:
        return meaning(ast.parse(text))
    except (SyntaxError, ValueError):
        return None


def _hunks(old_text: str, new_text: str, merged: int) -> list[Hunk] | None:
    """Line hunks; those with fewer than ``merged`` lines between them become one."""
    old = [line.rstrip() for line in old_text.splitlines()]
    new = [line.rstrip() for line in new_text.splitlines()]
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    changes = [list(op[1:]) for op in matcher.get_opcodes() if op[0] != "equal"]
    joined: list[list[int]] = []
    for change in changes:
        if joined and change[0] - joined[-1][1] < merged:
            joined[-1][1], joined[-1][3] = change[1], change[3]
        else:
            joined.append(change)
    hunks: list[Hunk] = []
    for a, b, c, d in joined:
        before, after = _anchored(old, new, [a, b, c, d])
        pieces = _paragraphs(before, after)
        if pieces is None:
            return None
        hunks.extend(pieces)
    return hunks


def _anchored(old: list[str], new: list[str], hunk: list[int]) -> tuple[list[str], list[str]]:
    """Grow a hunk by lines both sides share until both have text and the old occurs once."""
    a, b, c, d = hunk
    joined = "\n".join(old)
    while True:
        before = [line for line in old[a:b] if line]
        after = [line for line in new[c:d] if line]
        if before and after and joined.count("\n".join(before)) <= 1:
            return old[a:b], new[c:d]
        above = a > 0 and c > 0 and old[a - 1] and START not in old[a - 1]
        below = b < len(old) and d < len(new) and old[b] and END not in old[b]
        if not above and not below:
            return old[a:b], new[c:d]
        if above:
            a, c = a - 1, c - 1
        if below:
            b, d = b + 1, d + 1


def _paragraphs(before: list[str], after: list[str]) -> list[Hunk] | None:
    """Split a hunk at the old text's blank lines, which a SEARCH cannot hold.

    The new lines are dealt to the old paragraphs in order, preferably cut before a line that is
    indented least, so that the blank lines that stay fall between statements.
    """
    paragraphs: list[list[str]] = [[]]
    for line in before:
        if line:
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    paragraphs = [lines for lines in paragraphs if lines]
    lines = [line for line in after if line]
    count = len(paragraphs)
    if not count or len(lines) < count:
        return None
    cuts = [0]
    for piece in range(1, count):
        least, most = cuts[-1] + 1, len(lines) - (count - piece)
        ideal = max(least, min(most, round(piece * len(lines) / count)))
        near = range(max(least, ideal - 4), min(most, ideal + 4) + 1)
        cuts.append(min(near, key=lambda i: (_indent(lines[i]), abs(i - ideal))))
    cuts.append(len(lines))
    pieces = [lines[a:b] for a, b in zip(cuts, cuts[1:])]
    hunks = [("\n".join(p), "\n".join(q)) for p, q in zip(paragraphs, pieces)]
    return [(search, replace) for search, replace in hunks if search != replace]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())

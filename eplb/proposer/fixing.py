"""Repairing a program that failed, with no program that works to start from.

Covered: text that does not parse, a name that is not defined, and otherwise replacing a function,
one that the error names if there is any. A repair is a guess; the evaluation tells.
"""

from __future__ import annotations

import ast
import random
import re

from eplb.common import UserError
from eplb.proposer import grafting, mutations
from eplb.proposer.mutations import Change, Sources
from eplb.proposer.program import Program, editable_lines, names_bound_by

_UNDEFINED = re.compile(r"name '(\w+)' is not defined")


def repair(text: str, error: str, rng: random.Random, sources: Sources) -> Change | None:
    """A changed program that may work, from its text and the error output shown with it."""
    try:
        program = Program(text)
    except SyntaxError:
        return _parseable(text, sources)
    for name in _UNDEFINED.findall(error):
        change = _define(program, name, sources)
        if change:
            return change
    named = [name for name in program.functions() if re.search(rf"\b{re.escape(name)}\b", error)]
    if named and rng.random() < 0.7:
        change = _replace_function(program, rng.choice(named), rng, sources)
        if change:
            return change
    operator = rng.choice(
        [mutations.swap_function, grafting.take_function, mutations.change_condition]
    )
    return operator(program, rng, sources)


def _define(program: Program, name: str, sources: Sources) -> Change | None:
    """Import or copy what is not defined, where the catalogue or another program knows it."""
    known = [(part.source(node), node) for part in sources.parts for node in part.imports]
    for donor in sources.donors:
        known += [(donor.source(node), node) for node in donor.definitions()]
    for source, node in known:
        if name in names_bound_by(node) and name not in program.bound_names():
            at = program.block_start()
            change = program.edited([(at, at, f"{source}\n")])
            return Change(change, f"define_{name.lower()}", f"Define the missing name `{name}`.")
    return None


def _replace_function(
    program: Program, name: str, rng: random.Random, sources: Sources
) -> Change | None:
    """Replace one function by a part that fits it or by an inspiration's of the same signature."""
    function = program.functions()[name]
    parts = [part for part in sources.parts if part.fits(function, program.bound_names())]
    donors = [d for d in sources.donors if name in grafting.differing_functions(program, d)]
    if parts and (not donors or rng.random() < 0.5):
        part = rng.choice(parts)
        return mutations.swap_in(program, name, part)
    if donors:
        changed = grafting.graft(program, rng.choice(donors), name)
        if changed:
            return Change(changed, f"take_{name.lower()}", f"Take `{name}` from another program.")
    return None


def _parseable(text: str, sources: Sources) -> Change:
    """Make the text parse: replace each broken piece by a part or a donor's, or leave it out.

    Raises `UserError` where the text outside the EVOLVE blocks is what does not parse.
    """
    blocks = editable_lines(text)
    if not blocks:
        raise UserError("the program has no EVOLVE block; add the EVOLVE-BLOCK markers")
    lines = text.split("\n")
    touched = []
    for first, last in reversed(blocks):
        pieces = _pieces(lines[first - 1 : last])
        mended = [_mended(piece, sources, touched) for piece in pieces]
        lines[first - 1 : last] = [line for piece in mended for line in piece]
    try:
        program = Program("\n".join(lines))
    except SyntaxError as error:
        raise UserError(f"the program does not parse outside its EVOLVE block: {error}") from error
    names = ", ".join(f"`{name}`" for name in touched) or "a few lines"
    return Change(program, "repair_syntax", f"The program did not parse; put {names} right.")


def _pieces(lines: list[str]) -> list[list[str]]:
    """Cut before each line that starts a definition at the margin."""
    pieces: list[list[str]] = [[]]
    for line in lines:
        if re.match(r"(def|class|import|from|@)\b|@", line):
            pieces.append([])
        pieces[-1].append(line)
    return pieces


def _mended(piece: list[str], sources: Sources, touched: list[str]) -> list[str]:
    try:
        ast.parse("\n".join(piece))
        return piece
    except (SyntaxError, ValueError):
        pass
    header = re.match(r"def (\w+)", piece[0])
    name = header.group(1) if header else ""
    touched.append(name or "a statement")
    for donor in sources.donors:
        if name in donor.functions():
            return [*donor.source(donor.functions()[name]).split("\n"), "", ""]
    for part in sources.parts:
        if part.function.name == name:
            needed = [*part.imports, *part.helpers, part.function]
            return [line for node in needed for line in [*part.source(node).split("\n"), ""]]
    return []

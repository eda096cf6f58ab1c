"""Operators that change what a program does: constants, conditions, parts from the catalogue.

Every operator takes a program, a random stream and what it may draw on (`Sources`), and returns a
`Change`, or None where it finds nothing to work on. They hold for any Python program: what to act
on is found in the syntax tree, never by the position or text of a particular program.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from eplb.proposer.parts import Part, needed
from eplb.proposer.program import (
    Edit,
    Program,
    docstring_node,
    function_meaning,
    parameters,
    results,
)


class Change(NamedTuple):
    """A changed program, with a name fit for <NAME> and a sentence on what was done.

    The name begins with the operator's, so that a run tells which operators paid.
    """

    program: Program
    name: str
    description: str


class Sources(NamedTuple):
    """What operators draw on besides the program: catalogue and other programs, best first."""

    parts: Sequence[Part]
    donors: list[Program]


def perturb_constant(program: Program, rng: random.Random, sources: Sources) -> Change | None:
    """Change one number: integers by one or a factor of two, others by a factor near one."""
    numbers = [node for node in program.nodes(ast.Constant) if _is_tunable(node.value)]
    if not numbers:
        return None
    node = rng.choice(numbers)
    old = node.value
    if isinstance(old, int):
        new = rng.choice([n for n in (old - 1, old + 1, 2 * old, old // 2) if n > 0 and n != old])
    else:
        new = old * rng.choice([0.5, 0.7, 0.85, 1.2, 1.4, 2.0])
        if 0 < old < 1:
            new = min(new, (1 + old) / 2)  # shares and probabilities stay what they are
        new = float(f"{new:.4g}")
    start, end = program.span(node)
    return Change(
        program.edited([(start, end, repr(new))]),
        f"perturb_constant_{_word(old)}_to_{_word(new)}",
        f"Change the constant {old!r} in line {node.lineno} to {new!r}.",
    )


def _is_tunable(value: object) -> bool:
    """Numbers that tune something; 0 and 1 are mostly structure, and tiny ones guard a division."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) > 1e-6 and value not in (0, 1)


def _word(value: object) -> str:
    return re.sub(r"\W+", "_", str(value)).strip("_")


def change_condition(program: Program, rng: random.Random, sources: Sources) -> Change | None:
    """Make one condition always true, always false, or the opposite."""
    branches = [
        node
        for node in program.nodes(ast.If, ast.IfExp)
        if not isinstance(node.test, (ast.Constant, ast.JoinedStr))
    ]
    if not branches:
        return None
    test = rng.choice(branches).test
    old = program.source(test)
    new = rng.choice(["True", "False", f"not ({old})"])
    start, end = program.span(test)
    return Change(
        program.edited([(start, end, new)]),
        f"change_condition_{_word(new)}"[:60],
        f"Replace the condition `{' '.join(old.split())}` by `{' '.join(new.split())}`.",
    )


def swap_function(program: Program, rng: random.Random, sources: Sources) -> Change | None:
    """Replace a function by a part of the catalogue that plays the same role."""
    present = program.bound_names()
    choices: dict[str, list[Part]] = {}
    for name, function in program.functions().items():
        fitting = [part for part in sources.parts if part.fits(function, present)]
        same = function_meaning(function)
        differing = [part for part in fitting if part.meaning != same]
        if differing:
            choices[name] = differing
    if not choices:
        return None
    name = rng.choice(sorted(choices))
    return swap_in(program, name, _least_known(choices[name], rng, sources))


def _least_known(parts: list[Part], rng: random.Random, sources: Sources) -> Part:
    """Draw a part; one that no inspiration holds is three times as likely."""
    functions = [function for donor in sources.donors for function in donor.functions().values()]
    known = set(map(function_meaning, functions))
    return rng.choices(parts, [1.0 if part.meaning in known else 3.0 for part in parts])[0]


def swap_in(program: Program, name: str, part: Part) -> Change:
    """Replace the function of that name by the part."""
    start, end = program.span(program.functions()[name])
    edits = [(start, end, part_source(part, name)), *supporting_edits(program, part, start)]
    return Change(
        program.edited(edits),
        f"swap_function_{name}_for_{part.name}",
        f"Replace `{name}` by another {part.role} method. {part.summary}",
    )


def insert_step(program: Program, rng: random.Random, sources: Sources) -> Change | None:
    """Let a part of one parameter, such as a forecast, first treat that argument of the entry."""
    entries = program.names_needed_outside()
    taken = program.bound_names()
    choices = [
        (function, part)
        for name, function in program.functions().items()
        for part in sources.parts
        if name in entries
        and part.function.name not in taken
        and len(parameters(part.function) or ()) == 1
        and set(parameters(part.function)) <= set(parameters(function) or ())
        and results(part.function) == 1
    ]
    if not choices:
        return None
    function, part = rng.choice(choices)
    (argument,) = parameters(part.function)
    body = function.body[1:] if docstring_node(function) else function.body
    if not body or body[0].lineno == function.lineno:
        return None
    before = next((node for node in body if not _only_assigns(node, argument)), body[-1])
    at, _ = program.line_span(before)
    step = part.function.name
    start, _ = program.span(function)
    edits = [
        (at, at, f"{program.indentation(before)}{argument} = {step}({argument})\n"),
        (start, start, part_source(part, step) + "\n\n\n"),
        *supporting_edits(program, part, start),
    ]
    return Change(
        program.edited(_in_one(edits)),
        f"insert_step_{step}_{part.name}",
        f"Let `{function.name}` work on `{step}({argument})`. {part.summary}",
    )


def _only_assigns(node: ast.stmt, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return bool(targets) and all(isinstance(t, ast.Name) and t.id == name for t in targets)


def part_source(part: Part, name: str) -> str:
    """The part's function under another name."""
    header = re.compile(rf"^def {re.escape(part.function.name)}\(", re.MULTILINE)
    return header.sub(f"def {name}(", part.source(part.function), count=1)


def supporting_edits(program: Program, part: Part, before: int) -> list[Edit]:
    """Insert what a part needs: imports at the block's start, helpers ``before`` the function."""
    imports, helpers = needed(part, program.bound_names())
    edits = []
    if helpers:
        edits.append((before, before, "".join(f"{helper}\n\n\n" for helper in helpers)))
    if imports:
        at = program.block_start()
        already_first = isinstance(program.definitions()[0], (ast.Import, ast.ImportFrom))
        gap = "" if already_first else "\n\n"
        edits.append((at, at, "".join(f"{line}\n" for line in imports) + gap))
    return _in_one(edits)


def _in_one(edits: list[Edit]) -> list[Edit]:
    """Join insertions at one place; what comes later in the list goes first in the text."""
    joined: dict[tuple[int, int], str] = {}
    for start, end, new in edits:
        joined[start, end] = new + joined.get((start, end), "")
    return [(start, end, new) for (start, end), new in joined.items()]

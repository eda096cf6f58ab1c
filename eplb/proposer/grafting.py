"""The operator that takes functions from another program, with everything those functions need."""

from __future__ import annotations

import ast
import random

from eplb.proposer.mutations import Change, Sources
from eplb.proposer.program import (
    Edit,
    Program,
    function_meaning,
    names_bound_by,
    names_read_by,
    parameters,
    results,
)


def cross_over(program: Program, rng: random.Random, sources: Sources) -> Change | None:
    """Take a random share of the functions that an inspiration does differently."""
    offers = [(donor, differing_functions(program, donor)) for donor in sources.donors]
    offers = [(donor, names) for donor, names in offers if names]
    if not offers:
        return None
    # Donors come best first; the better half of the time, believe it.
    donor, names = offers[0] if rng.random() < 0.5 else rng.choice(offers)
    chosen = sorted(rng.sample(names, rng.randint(1, len(names))))
    for name in chosen:
        program = graft(program, donor, name)
        if program is None:
            return None
    return Change(
        program,
        f"cross_over_{'_and_'.join(chosen)}"[:80],
        f"Take {', '.join(f'`{name}`' for name in chosen)} from an inspiration.",
    )


def differing_functions(program: Program, donor: Program) -> list[str]:
    """Names of functions that both have, with one signature and different bodies."""
    theirs = donor.functions()
    return sorted(
        name
        for name, mine in program.functions().items()
        if name in theirs
        and parameters(mine) is not None
        and parameters(mine) == parameters(theirs[name])
        and results(mine) == results(theirs[name])
        and function_meaning(mine) != function_meaning(theirs[name])
    )


def graft(program: Program, donor: Program, name: str) -> Program | None:
    """Replace a function by the donor's and copy what it needs; None where that is impossible."""
    start, end = program.span(program.functions()[name])
    function = donor.functions()[name]
    copied = _missing(function, donor, program.bound_names())
    if copied is None:
        return None
    imports = [node for node in copied if isinstance(node, (ast.Import, ast.ImportFrom))]
    others = [node for node in copied if node not in imports]
    helpers = "".join(f"{donor.source(node)}\n\n\n" for node in others)
    edits: list[Edit] = [(start, end, helpers + donor.source(function))]
    if imports:
        at = program.block_start()
        if at == start:
            lines = "".join(f"{donor.source(node)}\n" for node in imports)
            edits = [(start, end, f"{lines}\n\n{edits[0][2]}")]
        else:
            edits.append((at, at, "".join(f"{donor.source(node)}\n" for node in imports)))
    return program.edited(edits)


def _missing(function: ast.stmt, donor: Program, present: set[str]) -> list[ast.stmt] | None:
    """The donor's editable definitions that the function needs and that are not ``present``.

    None where it needs something from outside the donor's EVOLVE blocks that is not present.
    """
    definitions = donor.definitions()
    everything = donor.bound_names()
    copied: set[int] = set()
    pending = [function]
    while pending:
        wanted = (names_read_by(pending.pop()) & everything) - present
        for name in sorted(wanted):
            sources = [i for i, node in enumerate(definitions) if name in names_bound_by(node)]
            if not sources:
                return None
            if sources[-1] not in copied and definitions[sources[-1]] is not function:
                copied.add(sources[-1])
                pending.append(definitions[sources[-1]])
    return [definitions[i] for i in sorted(copied)]

"""Operators that leave things out: unused definitions, conversions, sorts that only invert.

Only the evaluation can tell whether a program still answers alike: `drop_conversion` supposes that
a value has the type already, `sorted_permutations` that what is sorted is a permutation.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator

from eplb.proposer.mutations import Change, Sources
from eplb.proposer.program import Edit, Program, names_bound_by, names_read_by

Site = tuple[str, list[Edit]]  # what is simplified, and how
CONVERSIONS = ("clone", "contiguous", "copy", "cpu", "detach", "double", "float", "long")
MOST_AT_ONCE = 12


def simplify(program: Program, rng: random.Random, sources: Sources) -> Change | None:
    """Apply one simplification, or half of the time all of one kind, evenly among the kinds."""
    kinds = [find for find in FINDERS if any(True for _ in find(program))]
    if not kinds:
        return None
    find = rng.choice(kinds)
    what, edits = rng.choice(list(find(program)))
    program = program.edited(edits)
    if rng.random() < 0.5:
        for _ in range(MOST_AT_ONCE):
            more = next(find(program), None)
            if more is None:
                break
            program = program.edited(more[1])
        what += " and the like"
    return Change(program, f"simplify_{find.__name__}", f"Simplify: {what}.")


def unused_definitions(program: Program) -> Iterator[Site]:
    """Functions, imports and variables of the block that nothing reachable reads."""
    definitions = program.definitions()
    plain = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    roots = [node for node in program.tree.body if node not in definitions]
    roots += [node for node in definitions if not isinstance(node, plain)]
    used: set[str] = set()
    pending = list(roots)
    while pending:
        new = names_read_by(pending.pop()) - used
        used |= new
        pending.extend(node for node in definitions if names_bound_by(node) & new)
    dead = [
        node for node in definitions if names_bound_by(node) and not names_bound_by(node) & used
    ]
    # In a program whose outside uses nothing of the block, everything would seem dead.
    if len(dead) < len(definitions):
        for node in dead:
            name = min(names_bound_by(node))
            yield f"drop unused {name}", [(*program.line_span(node), "")]


def drop_conversion(program: Program) -> Iterator[Site]:
    """Method calls without arguments that only convert: ``x.float()`` becomes ``x``."""
    for call in program.nodes(ast.Call):
        function = call.func
        if isinstance(function, ast.Attribute) and function.attr in CONVERSIONS:
            if not call.args and not call.keywords:
                kept = program.source(function.value)
                yield f"drop conversion {function.attr}", [(*program.span(call), kept)]


def sorted_permutations(program: Program) -> Iterator[Site]:
    """``x.gather(d, p.argsort(dim=d))`` becomes a scatter: inverting needs no sort."""
    for call in program.nodes(ast.Call):
        gathers = isinstance(call.func, ast.Attribute) and call.func.attr == "gather"
        if not gathers or len(call.args) != 2 or "torch" not in program.bound_names():
            continue
        dimension, order = call.args
        if not isinstance(order, ast.Call) or not isinstance(order.func, ast.Attribute):
            continue
        along = [*order.args, *(keyword.value for keyword in order.keywords)]
        if order.func.attr == "argsort" and [ast.dump(a) for a in along] == [ast.dump(dimension)]:
            values, permutation = program.source(call.func.value), program.source(order.func.value)
            axis = program.source(dimension)
            scatter = f"torch.empty_like({values}).scatter_({axis}, {permutation}, {values})"
            yield "scatter instead of sorting a permutation", [(*program.span(call), scatter)]


FINDERS = (unused_definitions, drop_conversion, sorted_permutations)

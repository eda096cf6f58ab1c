"""Operators that leave things out: dead code, wrappers that do nothing, constant conditions.

They keep what a program answers, with two exceptions that only the evaluation can tell:
`drop_conversion` supposes that a value has the type already, `sorted_permutations` that what is
sorted is a permutation. Covered are only cases that the syntax tree shows.
"""

from __future__ import annotations

import ast
import random
import textwrap
from collections.abc import Iterator

from eplb.proposer.mutations import Change, Sources
from eplb.proposer.program import (
    Edit,
    Program,
    docstring_node,
    names_bound_by,
    names_read_by,
    parameters,
)

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


def unread_assignments(program: Program) -> Iterator[Site]:
    """Local variables that are set without a call and never read."""
    for function in program.nodes(ast.FunctionDef):
        read = names_read_by(function) | _declared_elsewhere(function)
        for body in _bodies(function):
            for node in body:
                if not isinstance(node, ast.Assign) or len(body) == 1:
                    continue
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
                pure = not any(isinstance(n, (ast.Call, ast.Await)) for n in ast.walk(node))
                alone = _alone_on_its_lines(node, body)
                if len(names) == len(node.targets) and pure and alone and not read & set(names):
                    yield f"drop unread {names[0]}", [(*program.line_span(node), "")]


def self_assignments(program: Program) -> Iterator[Site]:
    """``x = x``."""
    for parent in program.nodes(ast.FunctionDef):
        for body in _bodies(parent):
            for node in body:
                if (
                    isinstance(node, ast.Assign)
                    and len(node.targets) == 1
                    and isinstance(node.targets[0], ast.Name)
                    and isinstance(node.value, ast.Name)
                    and node.targets[0].id == node.value.id
                    and len(body) > 1
                    and _alone_on_its_lines(node, body)
                ):
                    yield (
                        f"drop {node.value.id} assigned to itself",
                        [(*program.line_span(node), "")],
                    )


def constant_conditions(program: Program) -> Iterator[Site]:
    """``if`` with a condition that is always true or always false: the branch that is taken."""
    for node in program.nodes(ast.If, ast.IfExp):
        value = _truth(node.test)
        if value is None:
            continue
        taken = node.body if value else node.orelse
        if isinstance(node, ast.IfExp):
            yield f"condition always {value}", [(*program.span(node), f"({program.source(taken)})")]
        elif not program.source(node).startswith("elif"):
            yield from _replaced_by(program, node, taken, f"condition always {value}")


def forwarding_functions(program: Program) -> Iterator[Site]:
    """Calls of functions that return their argument, or only pass all on to another function."""
    for name, function in program.functions().items():
        takes = parameters(function)
        body = function.body[1:] if docstring_node(function) else function.body
        if takes is None or len(body) != 1 or not isinstance(body[0], ast.Return):
            continue
        value = body[0].value
        calls = [
            call
            for call in program.nodes(ast.Call)
            if isinstance(call.func, ast.Name) and call.func.id == name and not call.keywords
        ]
        if isinstance(value, ast.Name) and takes == (value.id,):
            for call in calls:
                if len(call.args) == 1 and not isinstance(call.args[0], ast.Starred):
                    argument = program.source(call.args[0])
                    yield f"unwrap {name}", [(*program.span(call), f"({argument})")]
        elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
            passed = [arg.id for arg in value.args if isinstance(arg, ast.Name)]
            if passed == list(takes) and len(passed) == len(value.args) and not value.keywords:
                for call in calls:
                    yield (
                        f"call {value.func.id} directly",
                        [(*program.span(call.func), value.func.id)],
                    )


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


FINDERS = (
    unused_definitions,
    unread_assignments,
    self_assignments,
    constant_conditions,
    forwarding_functions,
    drop_conversion,
    sorted_permutations,
)


def _declared_elsewhere(function: ast.FunctionDef) -> set[str]:
    outer = [n for n in ast.walk(function) if isinstance(n, (ast.Global, ast.Nonlocal))]
    return {name for node in outer for name in node.names}


def _bodies(function: ast.FunctionDef) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(function):
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if isinstance(body, list) and body:
                yield body


def _alone_on_its_lines(node: ast.stmt, body: list[ast.stmt]) -> bool:
    """Whether no other statement shares a line with it, as after a semicolon."""
    lines = range(node.lineno, node.end_lineno + 1)
    return not any(
        other is not node and (other.lineno in lines or other.end_lineno in lines) for other in body
    )


def _truth(test: ast.expr) -> bool | None:
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _truth(test.operand)
        return None if inner is None else not inner
    return None


def _replaced_by(
    program: Program, node: ast.stmt, body: list[ast.stmt], what: str
) -> Iterator[Site]:
    """Put the body in the statement's place, at the statement's indentation."""
    start, end = program.line_span(node)
    if not body:
        yield what, [(start, end, f"{program.indentation(node)}pass\n")]
        return
    several_lines = any(
        isinstance(inner, (ast.Constant, ast.JoinedStr)) and inner.end_lineno > inner.lineno
        for statement in body
        for inner in ast.walk(statement)
    )
    if several_lines or body[0].lineno == node.lineno:
        return  # dedenting would change a string, or the body shares the statement's line
    first, _ = program.line_span(body[0])
    _, last = program.line_span(body[-1])
    inside = textwrap.dedent(program.text[first:last])
    yield what, [(start, end, textwrap.indent(inside, program.indentation(node)))]

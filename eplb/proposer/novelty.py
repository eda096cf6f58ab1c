"""Judging whether two programs differ in more than names, layout and comments."""

from __future__ import annotations

import ast

from eplb.proposer.program import meaning, names_bound_by, names_read_by


def judge(existing: str, proposed: str) -> str:
    """``NOVEL`` or ``NOT_NOVEL``, and why.

    Programs are compared as syntax trees without comments, docstrings, annotations and definitions
    that nothing reads, and with local variables numbered in the order of their appearance.
    """
    try:
        old, new = normal_form(existing), normal_form(proposed)
    except (SyntaxError, ValueError) as error:
        return f"NOVEL\nOne of the programs does not parse ({error}), so they cannot be the same."
    if old == new:
        return (
            "NOT_NOVEL\nThe programs have the same syntax tree once comments, docstrings, unused "
            "definitions and the names of local variables are set aside."
        )
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return f"NOVEL\nThey differ in {', '.join(f'`{name}`' for name in changed)}."


def normal_form(text: str) -> dict[str, str]:
    """What each name at module level stands for; other statements come under "module level"."""
    tree = ast.parse(text)
    used = set().union(*(names_read_by(node) for node in tree.body))
    forms: dict[str, str] = {}
    for node in tree.body:
        names = names_bound_by(node)
        # Entry points are called from elsewhere: only helpers, imports and data can be dead.
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign)) and not names & used:
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        key = min(names) if names else "module level"
        forms[key] = forms.get(key, "") + meaning(_Renamed().visit(node))
    return forms


class _Renamed(ast.NodeTransformer):
    """Drops annotations, and numbers the local variables of each function."""

    def __init__(self) -> None:
        self.numbers: dict[str, str] = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        local = {
            inner.id
            for inner in ast.walk(node)
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
        }
        for inner in ast.walk(node):
            if isinstance(inner, (ast.Global, ast.Nonlocal)):
                local -= set(inner.names)
        outer, self.numbers = self.numbers, dict(self.numbers)
        for inner in _in_order(node):
            if isinstance(inner, ast.Name) and inner.id in local and inner.id not in self.numbers:
                self.numbers[inner.id] = f"local{len(self.numbers)}"
        node.returns = None
        self.generic_visit(node)
        self.numbers = outer
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        if node.value is None:
            return node
        return ast.Assign(targets=[node.target], value=node.value)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self.numbers.get(node.id, node.id)
        return node


def _in_order(node: ast.AST):
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _in_order(child)

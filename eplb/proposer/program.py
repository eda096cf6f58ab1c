"""A Python program with EVOLVE blocks, as text and as syntax tree.

Covered: finding what may be edited, editing it by the positions of syntax nodes so that every other
byte stays, and comparing programs by what they mean to the interpreter. Not covered: running one.
"""

from __future__ import annotations

import ast
import bisect
import collections
import functools
from collections.abc import Iterable, Iterator

from eplb.common import UserError

START, END = "EVOLVE-BLOCK-START", "EVOLVE-BLOCK-END"
Edit = tuple[int, int, str]  # replace text[start:end] by the string


def editable_lines(text: str) -> list[tuple[int, int]]:
    """The [first, last] line numbers, from 1, strictly between each pair of EVOLVE markers."""
    blocks, start = [], None
    for number, line in enumerate(text.split("\n"), 1):
        if START in line:
            start = number
        elif END in line and start is not None:
            blocks.append((start + 1, number - 1))
            start = None
    return blocks


class Program:
    """Python source in which only the EVOLVE blocks may change. Immutable: edits make a new one.

    Raises `SyntaxError` where the text does not parse, `UserError` where it has no EVOLVE block.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.blocks = editable_lines(text)
        if not self.blocks:
            raise UserError("the program has no EVOLVE block; add the EVOLVE-BLOCK markers")
        try:
            self.tree = ast.parse(text)
        except (ValueError, RecursionError, MemoryError) as error:
            raise SyntaxError(str(error)) from error
        lines = text.split("\n")
        self._line_bytes = [line.encode() for line in lines]
        self._line_start = [0]
        for line in lines:
            self._line_start.append(self._line_start[-1] + len(line) + 1)

    def editable(self, node: ast.AST) -> bool:
        """Whether the whole node lies in one EVOLVE block."""
        return any(a <= first_line(node) and node.end_lineno <= b for a, b in self.blocks)

    def nodes(self, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
        """All editable nodes of these kinds, breadth first.

        Nodes inside f-strings are left out: before Python 3.12 their positions are wrong.
        """
        pending = collections.deque([self.tree])
        while pending:
            node = pending.popleft()
            if isinstance(node, kinds) and hasattr(node, "lineno") and self.editable(node):
                yield node
            if not isinstance(node, ast.JoinedStr):
                pending.extend(ast.iter_child_nodes(node))

    def definitions(self) -> list[ast.stmt]:
        """The editable statements at module level."""
        return [node for node in self.tree.body if self.editable(node)]

    def functions(self) -> dict[str, ast.FunctionDef]:
        """The editable functions at module level by name; the last one of a name counts."""
        return {node.name: node for node in self.definitions() if isinstance(node, ast.FunctionDef)}

    def bound_names(self) -> set[str]:
        """Every name that the module level binds, inside the EVOLVE blocks and outside."""
        return {name for node in self.tree.body for name in names_bound_by(node)}

    def names_needed_outside(self) -> set[str]:
        """Names that code outside the EVOLVE blocks reads."""
        fixed = [node for node in self.tree.body if not self.editable(node)]
        return {name for node in fixed for name in names_read_by(node)}

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Where the node's text starts and ends, decorators included."""
        start = self.offset(first_line(node), node.col_offset)
        return start, self.offset(node.end_lineno, node.end_col_offset)

    def line_span(self, node: ast.AST) -> tuple[int, int]:
        """The whole lines of a statement, with the last line's end."""
        return self._line_start[first_line(node) - 1], self._line_start[node.end_lineno]

    def source(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.text[start:end]

    def indentation(self, node: ast.stmt) -> str:
        """What stands before the statement on its line: spaces or tabs."""
        start, _ = self.line_span(node)
        return self.text[start : self.span(node)[0]]

    def offset(self, line: int, column: int) -> int:
        """Position in the text of a syntax node's line and column, which counts UTF-8 bytes."""
        return self._line_start[line - 1] + len(self._line_bytes[line - 1][:column].decode())

    def block_start(self) -> int:
        """Position of the first EVOLVE block's first line."""
        return self._line_start[self.blocks[0][0] - 1]

    def edited(self, edits: Iterable[Edit]) -> Program:
        """The program after these edits, which must not overlap and lie in EVOLVE blocks.

        Raises `SyntaxError` where the result does not parse.
        """
        text = self.text
        for start, end, new in sorted(edits, key=lambda edit: edit[:2], reverse=True):
            first = bisect.bisect_right(self._line_start, start)
            last = bisect.bisect_right(self._line_start, max(start, end - 1))
            if not any(a <= first and last <= b for a, b in self.blocks):
                raise ValueError(f"an edit of lines {first}-{last} leaves the EVOLVE blocks")
            text = text[:start] + new + text[end:]
        return Program(text)


def first_line(node: ast.AST) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def names_bound_by(node: ast.stmt) -> set[str]:
    """Names that a module-level statement binds in the module."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    bound = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            bound.add(inner.id)
        elif isinstance(inner, (ast.Import, ast.ImportFrom)):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in inner.names}
        elif isinstance(inner, (ast.FunctionDef, ast.ClassDef)):
            bound.add(inner.name)
    return bound


def names_read_by(node: ast.AST) -> set[str]:
    """Names that the node reads anywhere below, and those it declares global."""
    read = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Store):
            read.add(inner.id)
        elif isinstance(inner, ast.Global):
            read.update(inner.names)
        elif isinstance(inner, ast.AugAssign) and isinstance(inner.target, ast.Name):
            read.add(inner.target.id)
    return read


def parameters(function: ast.FunctionDef) -> tuple[str, ...] | None:
    """Names of the positional parameters, or None where there are others or defaults."""
    arguments = function.args
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.defaults:
        return None
    return tuple(argument.arg for argument in (*arguments.posonlyargs, *arguments.args))


@functools.lru_cache(maxsize=1024)
def results(function: ast.FunctionDef) -> int | None:
    """How many values every return gives: 1 where it is not a tuple, None where they disagree."""
    counts = set()
    pending: list[ast.AST] = list(function.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Return):
            counts.add(len(node.value.elts) if isinstance(node.value, ast.Tuple) else 1)
        elif not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.expr)):
            pending.extend(ast.iter_child_nodes(node))
    return counts.pop() if len(counts) == 1 else None


def docstring_node(node: ast.AST) -> ast.Expr | None:
    """The statement that is the docstring of a module, class or function."""
    body = getattr(node, "body", None)
    if not isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return None
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        return body[0] if isinstance(body[0].value.value, str) else None
    return None


@functools.lru_cache(maxsize=1024)
def function_meaning(function: ast.FunctionDef) -> str:
    """The function's `meaning` whatever its name: equal where two functions do the same."""
    name, function.name = function.name, ""
    try:
        return meaning(function)
    finally:
        function.name = name


def meaning(tree: ast.AST) -> str:
    """The tree as text without docstrings, comments and layout: equal where the code is."""
    documented = [node for node in ast.walk(tree) if docstring_node(node)]
    kept = [(node, node.body) for node in documented]
    for node in documented:
        node.body = node.body[1:] or [ast.Pass()]
    try:
        return ast.dump(tree)
    finally:
        for node, body in kept:
            node.body = body

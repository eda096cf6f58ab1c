"""Reading the catalogue of building blocks.

A part is a file ``catalogue/<role>/<name>.py``: imports, one function that plays the role, and at
most a few helpers or module-level variables for it. Parts are read as text and never run here.
"""

from __future__ import annotations

import ast
import builtins
import functools
from pathlib import Path
from typing import NamedTuple

from eplb.proposer.program import (
    function_meaning,
    names_bound_by,
    names_read_by,
    parameters,
    results,
)

CATALOGUE = Path(__file__).resolve().parent / "catalogue"


class Part(NamedTuple):
    """One building block: ``function`` plays the role, ``helpers`` and ``imports`` go with it."""

    role: str
    name: str
    summary: str
    text: str
    function: ast.FunctionDef
    imports: list[ast.stmt]
    helpers: list[ast.stmt]
    meaning: str

    def source(self, node: ast.stmt) -> str:
        lines = self.text.split("\n")
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        return "\n".join(lines[start - 1 : node.end_lineno])

    def fits(self, function: ast.FunctionDef, present: set[str]) -> bool:
        """Whether the part can stand in for a function of a program that binds ``present``.

        It can with the same parameters, by name or number, the same number of results, and every
        function of the program at hand that it calls.
        """
        takes = parameters(function)
        if takes is None or results(function) != results(self.function):
            return False
        mine = parameters(self.function)
        alike = takes == mine or (function.name == self.function.name and len(takes) == len(mine))
        return alike and self.calls() <= present - {function.name}

    def calls(self) -> set[str]:
        """Functions of the program that the part calls: no part brings everything itself."""
        own = set().union(*(names_bound_by(node) for node in (*self.imports, *self.helpers)))
        own |= names_bound_by(ast.Module(self.function.body, [])) | set(parameters(self.function))
        return names_read_by(self.function) - own - set(dir(builtins))


def read_part(path: Path) -> Part:
    """Read one file of the catalogue; raises ValueError where it is not a part."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    summary = (ast.get_docstring(tree) or "").split("\n")[0]
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    others = [node for node in tree.body[1:] if node not in imports]
    if not summary or not others or not isinstance(others[-1], ast.FunctionDef):
        raise ValueError(f"{path} is no part: it needs a docstring and ends with one function")
    function, helpers = others[-1], others[:-1]
    same = function_meaning(function)
    return Part(path.parent.name, path.stem, summary, text, function, imports, helpers, same)


@functools.cache
def read_catalogue() -> tuple[Part, ...]:
    """All parts, ordered by role and name."""
    return tuple(read_part(path) for path in sorted(CATALOGUE.glob("*/*.py")))


def needed(part: Part, present: set[str]) -> tuple[list[str], list[str]]:
    """Source of the imports and of the helpers of a part that a program does not have yet."""
    used = names_read_by(part.function).union(*(names_read_by(node) for node in part.helpers))
    imports = [
        part.source(node)
        for node in part.imports
        if not names_bound_by(node) <= present and names_bound_by(node) & used
    ]
    helpers = [part.source(node) for node in part.helpers if not names_bound_by(node) <= present]
    return imports, helpers

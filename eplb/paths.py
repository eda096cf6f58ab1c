"""Where the project's own files are: the seed program, the embedded trace."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def project_file(name: str) -> Path:
    """The path of a file that the project ships, such as ``initial.py`` or ``expert-load.json``.

    The source tree comes first: in an editable install the copies beside the package go stale.
    """
    in_tree = _PACKAGE.parent / name
    return in_tree if in_tree.exists() else _PACKAGE / "project" / name

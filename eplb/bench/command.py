"""What the commands share that run programs: arguments, and what a table of figures is headed by.

Not covered: what else the machine did meanwhile.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from eplb.common import (
    ArgumentParser,
    UserError,
    path_argument,
    plot_argument,
    positive_int,
    project_file,
)


def parser(prog: str, description: str) -> ArgumentParser:
    """The arguments that every such command has."""
    parser = ArgumentParser(prog=prog, description=description)
    add = parser.add_argument
    programs = "default: all in programs/"
    add("--programs", type=readable, nargs="+", metavar="FILE", help=programs)
    add("--repeats", type=positive_int, default=3, help="runs of a program; default: 3")
    add("--plot", type=plot_argument, metavar="FILE", help="draw it, e.g. it.png")
    parser.set_defaults(programs=shipped_programs())
    return parser


def readable(text: str) -> Path:
    """An argument that names a file to read, for ``type=`` of argparse."""
    path = path_argument(text)
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; name one that can be read"
        ) from error
    return path


@cache
def shipped_programs() -> tuple[Path, ...]:
    """This project's own, but for the seed; asked for by every cell of a table."""
    return tuple(sorted(project_file("programs").glob("*.py")))


def check_names(option: str, names: Iterable[str]) -> None:
    """Raise `UserError` where two of ``names`` are the same: a table would have room for one."""
    name, times = max(Counter(names).items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise UserError(f"{option}: two are called {name}; give one of them another name")


def markdown(lines: list[list[str]], title: str = "") -> str:
    """A table in Markdown from its cells, of which the first line is the heading."""
    head, *rest = [f"| {' | '.join(line)} |\n" for line in lines]
    above = f"**{title}**\n\n" if title else ""
    return f"{above}{head}|{'---|' * len(lines[0])}\n{''.join(rest)}"


def measured() -> str:
    """What stands above figures: the commit, with a + where files differ from it, and the machine.

    The machine is its processor's name, as far as the system tells it.
    """
    folder = project_file("initial.py").parent
    git = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
    processor = platform.processor() or platform.machine()
    commit = ""
    with suppress(OSError):
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = next(line for line in lines if line.startswith("model name"))
        processor = named.partition(":")[2].strip()
    return f"Commit {commit or 'unknown'}; {processor}, {os.cpu_count()} processors; one thread"

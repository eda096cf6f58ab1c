"""What the commands share that read a recording: its arguments, and how they end."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from eplb.common import DONE, ArgumentParser, path_argument, plot_argument


def parser(description: str, plot: str = "") -> ArgumentParser:
    """Arguments that name a recording and the part of it to use; ``plot`` says what one draws."""
    parser = ArgumentParser(description=description)
    add = parser.add_argument
    recording = {"type": path_argument, "required": True, "help": "statistics of any engine"}
    add("--expert_statistic_path", **recording)
    add("--iter_start", type=int, help="first iteration to use")
    add("--iter_stop", type=int, help="first iteration not to use any more")
    if plot:
        add("--plot", type=plot_argument, metavar="FILE", help=f"draw {plot}")
    return parser


def tell(text: str, warnings: Iterable[str]) -> int:
    """Print what was done, and warnings apart from it; returns the exit status."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(text)
    return DONE

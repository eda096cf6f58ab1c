"""What the commands share that read a recording: options, and how they end.

Not covered: options that only one command has, and how mistakes end (`eplb.common`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from eplb.common import DONE, ArgumentParser, path_argument, positive_int, project_file
from eplb.planning.planner import DEFAULT_PROGRAM
from eplb.throughput.profile import add_arguments

# Type and help of the options that several commands take, but not all.
SHARED = {
    "ep_size": (positive_int, "expert-parallel ranks, GPUs (default: as recorded)"),
    "first_moe_layer": (int, "its number, where statistics count MoE layers alone"),
    "num_groups": (
        positive_int,
        "expert groups of the model's routing (default: as the loads show)",
    ),
    "program_path": (path_argument, f"balancer to plan with (default: {DEFAULT_PROGRAM})"),
    "validate": (float, "share of the iterations, the last, that figures are of and no plan sees"),
}


def parser(description: str, *shared: str) -> ArgumentParser:
    """Options for a recording, the part of it to use and the hardware, and ``shared`` ones."""
    parser = ArgumentParser(description=description)
    add = parser.add_argument
    recording = {"type": path_argument, "required": True, "help": "statistics of any engine"}
    add("--expert_statistic_path", **recording)
    add("--iter_start", type=int, help="first iteration to use")
    add("--iter_stop", type=int, help="first iteration not to use any more")
    for name in shared:
        kind, text = SHARED[name]
        add(f"--{name}", type=kind, help=text)
    parser.set_defaults(program_path=project_file(DEFAULT_PROGRAM))
    add_arguments(parser)
    return parser


def tell(text: str, warnings: Iterable[str]) -> int:
    """Print what was done, and warnings apart from it; returns the exit status."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(text)
    return DONE

"""What the commands share that read a recording: options, and how they end."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from eplb.common import DONE, ArgumentParser, path_argument, positive_int, project_file
from eplb.planning.planner import DEFAULT_PROGRAM
from eplb.throughput.profile import add_arguments

# Those that several commands take, but not all; by name.
SHARED = {
    "ep_size": {"type": positive_int, "help": "expert-parallel ranks, GPUs (default: as recorded)"},
    "first_moe_layer": {
        "type": int,
        "help": "its number, where statistics count MoE layers alone",
    },
    "num_groups": {
        "type": positive_int,
        "help": "expert groups of the model's routing (default: 1)",
    },
    "program_path": {
        "type": path_argument,
        "default": project_file(DEFAULT_PROGRAM),
        "help": f"balancer to plan with (default: {DEFAULT_PROGRAM} of this project)",
    },
    "validate": {
        "type": float,
        "metavar": "SHARE",
        "help": "hold the last share of the iterations out, e.g. 0.2: no plan sees them, and all "
        "figures are of them",
    },
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
        add(f"--{name}", **SHARED[name])
    add_arguments(parser)
    return parser


def tell(text: str, warnings: Iterable[str]) -> int:
    """Print what was done, and warnings apart from it; returns the exit status."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(text)
    return DONE

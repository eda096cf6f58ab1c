"""Say what to deploy: spare slots, how often to rebalance, EP size and dispatch.

python plan_deployment.py --expert_statistic_path ./expert_statistic --ep_size 32 --hardware h200
"""

from __future__ import annotations

import argparse
from pathlib import Path

from eplb.common import exit_on_user_error, positive_int, progress_bar
from eplb.planning import command
from eplb.planning.advice_report import make
from eplb.planning.planner import DEFAULT_PROGRAM
from eplb.throughput.profile import add_arguments


def parse_arguments() -> argparse.Namespace:
    parser = command.parser(
        "Try out on a recording what a deployment gains from spare slots and from "
        "rebalancing: planned on the past, judged on held-out iterations.",
        plot="tokens per second over memory",
    )
    add = parser.add_argument
    add(
        "--decode_statistic_path",
        type=Path,
        help="statistics of decode, where the others are of prefill alone",
    )
    add(
        "--ep_size",
        type=positive_int,
        nargs="+",
        required=True,
        help="expert-parallel ranks, GPUs; several are compared",
    )
    add("--gpus_per_node", type=positive_int, default=8, help="default: 8")
    add("--num_groups", type=positive_int, help="expert groups of the model's routing (default: 1)")
    add(
        "--steps_per_iteration",
        type=positive_int,
        help="engine steps that an iteration of the recording sums up (default: as recorded, or 1)",
    )
    add(
        "--program_path",
        type=Path,
        help=f"balancer to plan with (default: {DEFAULT_PROGRAM} of this project)",
    )
    add_arguments(parser)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    with progress_bar("trying out") as progress:
        text, warnings = make(**vars(arguments), progress=progress)
    return command.tell(text, warnings)


if __name__ == "__main__":
    exit_on_user_error(main)

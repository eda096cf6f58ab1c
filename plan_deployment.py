"""Say what to deploy: spare slots, how often to rebalance, EP size and dispatch.

python plan_deployment.py --expert_statistic_path ./expert_statistic --ep_size 32 --hardware h200
"""

from __future__ import annotations

from eplb import common
from eplb.common import path_argument, positive_int
from eplb.planning import command
from eplb.planning.advice_report import make


def parser() -> common.ArgumentParser:
    parser = command.parser(
        "Try out on a recording what a deployment gains from spare slots and from "
        "rebalancing: planned on the past, judged on held-out iterations.",
        *("num_groups", "program_path"),
    )
    add = parser.add_argument
    several = {"type": positive_int, "nargs": "+", "required": True}
    add("--ep_size", **several, help="expert-parallel ranks, GPUs; several are compared")
    decode = "statistics of decode, where the others are of prefill alone"
    add("--decode_statistic_path", type=path_argument, help=decode)
    add("--gpus_per_node", type=positive_int, default=8, help="default: 8")
    steps = "engine steps that an iteration sums up (default: as recorded, or 1)"
    add("--steps_per_iteration", type=positive_int, help=steps)
    picture = "draw tokens per second over memory"
    add("--plot", type=common.plot_argument, metavar="FILE", help=picture)
    return parser


def main() -> int:
    options = parser().parse_args()
    with common.progress_bar("trying out") as progress:
        text, warnings = make(options, progress)
    return command.tell(text, warnings)


if __name__ == "__main__":
    common.exit_on_user_error(main)

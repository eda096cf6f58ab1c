"""Print how unevenly recorded expert statistics load the ranks, now and under a new placement.

python report_load_statistics.py --expert_statistic_path ./expert_statistic --ep_size 8 \\
    --eplb_config ./moe_load_balancer.yaml --plot before_after.png
"""

from __future__ import annotations

from eplb.common import ArgumentParser, exit_on_user_error, path_argument, plot_argument
from eplb.planning import command
from eplb.planning.report import report


def parser() -> ArgumentParser:
    parser = command.parser(
        "Mean, standard deviation and imbalance ratio of the load of each layer.",
        *("ep_size", "first_moe_layer", "validate"),
    )
    add = parser.add_argument
    add("--eplb_config", type=path_argument, help="placement file of any engine to project onto")
    add("--per_expert", action="store_true", help="load per expert (per slot with a placement)")
    picture = "draw the load of each rank and layer, before and after"
    add("--plot", type=plot_argument, metavar="FILE", help=picture)
    return parser


def main() -> int:
    return command.tell(*report(parser().parse_args()))


if __name__ == "__main__":
    exit_on_user_error(main)

"""Print how unevenly recorded expert statistics load the ranks, now and under a new placement.

python report_load_statistics.py --expert_statistic_path ./expert_statistic --ep_size 8 \\
    --eplb_config ./moe_load_balancer.yaml --plot before_after.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from eplb.common import exit_on_user_error, positive_int
from eplb.planning import command
from eplb.planning.report import report
from eplb.throughput.profile import add_arguments


def parse_arguments() -> argparse.Namespace:
    parser = command.parser(
        "Mean, standard deviation and imbalance ratio of the load of each layer.",
        plot="the load of each rank and layer, before and after",
    )
    add = parser.add_argument
    add("--eplb_config", type=Path, help="placement file of any engine to project onto")
    add("--per_expert", action="store_true", help="load per expert (per slot with a placement)")
    add("--ep_size", type=positive_int, help="ranks (default: as many as recorded)")
    add("--first_moe_layer", type=int, help="its number, where statistics count MoE layers alone")
    add(
        "--validate",
        type=float,
        metavar="SHARE",
        help="measure on the last share of the iterations, that a plan has not seen",
    )
    add_arguments(parser)
    return parser.parse_args()


def main() -> int:
    return command.tell(*report(**vars(parse_arguments())))


if __name__ == "__main__":
    exit_on_user_error(main)

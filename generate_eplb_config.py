"""Turn recorded expert statistics into a placement file for a serving engine.

python generate_eplb_config.py --ep_size 8 --num_slots 320 \\
    --expert_statistic_path ./expert_statistic --output_path ./moe_load_balancer.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path

from eplb.common import exit_on_user_error, positive_int
from eplb.engines.registry import WRITTEN
from eplb.planning import command
from eplb.planning.generate import generate
from eplb.planning.planner import DEFAULT_PROGRAM
from eplb.throughput.profile import add_arguments


def parse_arguments() -> argparse.Namespace:
    parser = command.parser(
        "Expert statistics in, expert placement out. Needs no GPU and no engine."
    )
    add = parser.add_argument
    add("--output_path", type=Path, required=True, help="file to write")
    add("--ep_size", type=positive_int, help="expert-parallel ranks, GPUs (default: as recorded)")
    add(
        "--num_slots",
        type=positive_int,
        help="slots per layer (default: one an expert)",
    )
    add(
        "--layer_updates_per_iter",
        type=int,
        default=0,
        help="TensorRT-LLM: layers to rebalance online per iteration; 0 (default) is static",
    )
    add("--first_moe_layer", type=int, help="its number, where statistics count MoE layers alone")
    add("--num_groups", type=positive_int, help="expert groups of the model's routing (default: 1)")
    add("--num_nodes", type=positive_int, help="nodes that the ranks spread over (default: 1)")
    add(
        "--program_path",
        type=Path,
        help=f"balancer to plan with (default: {DEFAULT_PROGRAM} of this project)",
    )
    add("--format", choices=WRITTEN, help="of the output (default: by its suffix)")
    add(
        "--validate",
        type=float,
        metavar="SHARE",
        help="plan without the last share of the iterations and measure on those, e.g. 0.2",
    )
    add(
        "--current",
        type=Path,
        metavar="FILE",
        help="placement file that is deployed: fetch as little as can be, where it pays",
    )
    add_arguments(parser)
    return parser.parse_args()


def main() -> int:
    return command.tell(*generate(**vars(parse_arguments())))


if __name__ == "__main__":
    exit_on_user_error(main)

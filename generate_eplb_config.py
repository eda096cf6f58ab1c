"""Turn recorded expert statistics into a placement file for a serving engine.

python generate_eplb_config.py --ep_size 8 --num_slots 320 \\
    --expert_statistic_path ./expert_statistic --output_path ./moe_load_balancer.yaml
"""

from __future__ import annotations

from eplb import common
from eplb.common import path_argument, positive_int
from eplb.engines.registry import WRITTEN
from eplb.planning import command
from eplb.planning.generate import generate


def parser() -> common.ArgumentParser:
    parser = command.parser(
        "Expert statistics in, expert placement out. Needs no GPU and no engine.",
        *("ep_size", "first_moe_layer", "num_groups", "program_path", "validate"),
    )
    add = parser.add_argument
    add("--output_path", type=common.output_argument, required=True, help="file to write")
    add("--num_slots", type=positive_int, help="slots per layer (default: one an expert)")
    online = "TensorRT-LLM: layers to rebalance online per iteration; 0 (default) is static"
    add("--layer_updates_per_iter", type=int, default=0, help=online)
    add("--num_nodes", type=positive_int, help="nodes that the ranks spread over (default: 1)")
    add("--format", choices=WRITTEN, help="of the output (default: by its suffix)")
    current = "placement file that is deployed: fetch as little as can be, where it pays"
    add("--current", type=path_argument, metavar="FILE", help=current)
    return parser


def main() -> int:
    return command.tell(*generate(parser().parse_args()))


if __name__ == "__main__":
    common.exit_on_user_error(main)

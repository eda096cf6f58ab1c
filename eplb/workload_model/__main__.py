"""`python -m eplb.workload_model`: write a synthetic trace."""

from __future__ import annotations

from dataclasses import replace

from eplb.common import DONE, ArgumentParser, exit_on_user_error
from eplb.trace import write_trace
from eplb.workload_model import PRESETS, generate


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m eplb.workload_model", description=__doc__)
    parser.add_argument("--output", metavar="FILE", required=True, help="the trace to write")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="deepseek-v3")
    parser.add_argument("--seed", type=int, help="of the random numbers (default: the preset's)")
    args = parser.parse_args(arguments)
    model = PRESETS[args.preset]
    write_trace(
        args.output, generate(model if args.seed is None else replace(model, seed=args.seed))
    )
    return DONE


if __name__ == "__main__":
    exit_on_user_error(main)

"""``python -m eplb.workload_model``: write a synthetic trace, or report a trace's calibration."""

from __future__ import annotations

import argparse
from dataclasses import replace

from eplb.errors import REFUSED, SCORED, exit_on_user_error
from eplb.trace import read_trace, write_trace
from eplb.workload_model import PRESETS, generate
from eplb.workload_model.calibration import report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eplb.workload_model", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--output", metavar="FILE", help="write a synthetic trace to FILE")
    action.add_argument(
        "--report",
        action="store_true",
        help="print published figures beside the trace's; exit status 1 if one is out of bounds",
    )
    parser.add_argument(
        "--trace", metavar="FILE", help="with --report: the trace (default: the one of --preset)"
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="deepseek-v3")
    parser.add_argument("--seed", type=int, help="of the random numbers (default: the preset's)")
    args = parser.parse_args(arguments)
    if args.trace and args.output:
        parser.error("--trace goes with --report")

    if args.trace:
        trace = read_trace(args.trace)
    else:
        model = PRESETS[args.preset]
        trace = generate(model if args.seed is None else replace(model, seed=args.seed))
    if args.output:
        write_trace(args.output, trace)
        return SCORED
    text, good = report(trace)
    print(text)
    return SCORED if good else REFUSED


if __name__ == "__main__":
    exit_on_user_error(main)

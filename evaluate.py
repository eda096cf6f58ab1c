"""Score a load balancer: `python evaluate.py --program_path initial.py`.

Writes metrics.json and correct.json to the results folder, as ShinkaEvolve expects them, and
prints a table. Exit status 0: scored; 1: refused; 2: wrong arguments or unusable data.
"""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from pathlib import Path

from eplb import common
from eplb.common import ArgumentParser, UserError, path_argument, positive_int, progress_bar
from eplb.evaluation.measure import Criteria, Settings, evaluate
from eplb.evaluation.results import metrics_of, prepare, write_misuse, write_results
from eplb.evaluation.scores import SCORINGS
from eplb.evaluation.table import next_command, table
from eplb.placement import Deployment
from eplb.throughput.profile import add_arguments

SIZES = {"num_replicas": "slots", "num_groups": "groups", "num_nodes": "nodes", "num_gpus": "GPUs"}


def parser() -> ArgumentParser:
    p = ArgumentParser(description="Score an expert-parallelism load balancer.")
    add, file = p.add_argument, {"type": path_argument, "metavar": "PATH"}
    add("--program_path", **file, required=True, help="the program: one Python file")
    add("--results_dir", **file, default=Path("results"), help="default: results")
    add("--trace", **file, help="load history (default: the embedded one)")
    for name, what in SIZES.items():
        default = f"the trace's, or {getattr(Deployment, name)}"
        add(f"--{name}", type=positive_int, help=f"{what} (default: {default})")
    interval = "records per window (default: the trace's)"
    add("--rebalance_interval", type=positive_int, help=interval)
    repeats = f"runs, each a fresh process (default: {Settings.repeats})"
    add("--repeats", type=positive_int, default=Settings.repeats, help=repeats)
    locality = "whether a group spread over nodes is reported (default) or refused"
    add("--locality", choices=("report", "require"), default="report", help=locality)
    add("--scoring", choices=SCORINGS, default="eplb", help="the combined score (default: eplb)")
    add_arguments(p)
    seconds = {"type": common.positive_seconds, "default": Settings.timeout}
    add("--timeout", **seconds, help=f"seconds for one run (default: {Settings.timeout:g})")
    fresh = "score it on N traces too that are drawn now, which no program can know"
    add("--fresh", type=positive_int, metavar="N", help=fresh)
    add("--plots", action="store_true", help="draw plots/*.png in the results folder")
    add("--json", action="store_true", help="print JSON instead of the table")
    return p


def score(args: argparse.Namespace) -> int:
    """Evaluate, write the results and print them."""
    criteria = Criteria(args.locality == "require", args.scoring, args.dispatch, args.hardware)
    settings = Settings(
        args.program_path,
        args.trace or common.project_file("expert-load.json"),
        {name: getattr(args, name) for name in (*SIZES, "rebalance_interval")},
        repeats=args.repeats,
        timeout=args.timeout,
        seed_history=args.plots,
        hidden=(args.results_dir,),
        criteria=criteria,
    )
    with progress_bar("evaluating") as progress:
        evaluation = evaluate(settings, progress)
    metrics = metrics_of(evaluation)
    correct = evaluation.refusal is None
    if args.fresh and correct:
        from eplb.evaluation.fresh import compare

        with progress_bar("fresh") as progress:
            fresh = compare(settings, args.fresh, metrics["combined_score"], progress)
        metrics["private"]["fresh"] = fresh
    if args.plots and correct:
        from eplb.evaluation.plots import draw

        draw(evaluation, args.results_dir / "plots")
    write_results(args.results_dir, metrics)
    default = vars(parser().parse_args(["--program_path", "-"]))
    whole = json.dumps({"correct": correct, **metrics}, indent=2)
    print(whole if args.json else table(metrics, args.results_dir, next_command(args, default)))
    return common.DONE if correct else common.FAILED


def main() -> int:
    results_dir = None
    try:
        # By itself first: the folder must be known where other arguments are wrong.
        only = ArgumentParser(prog="evaluate.py", add_help=False)
        only.add_argument("--results_dir", type=path_argument, default=Path("results"))
        results_dir = only.parse_known_args()[0].results_dir
        args = parser().parse_args()
        prepare(args.results_dir)
        return score(args)
    except UserError as error:
        # ShinkaEvolve takes whatever it finds: an earlier program's score must not pass for this.
        if results_dir is not None and results_dir.is_dir():
            prepare(results_dir)
            write_misuse(results_dir, str(error))
        raise
    except KeyboardInterrupt:
        with suppress(OSError):  # It has an earlier or foreign file.
            results_dir.rmdir()
        raise


if __name__ == "__main__":
    common.exit_on_user_error(main)

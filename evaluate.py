"""Score a load balancer: `python evaluate.py --program_path initial.py`.

Writes metrics.json and correct.json to the results folder, as ShinkaEvolve expects them, and
prints a table. Exit status 0: scored; 1: refused; 2: wrong arguments or unusable data.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from eplb.common import (
    DONE,
    FAILED,
    ArgumentParser,
    UserError,
    exit_on_user_error,
    path_argument,
    positive_int,
    positive_seconds,
    progress_bar,
    project_file,
)
from eplb.evaluation.measure import Settings, evaluate
from eplb.evaluation.results import metrics_of, prepare, write_misuse, write_results
from eplb.evaluation.scores import SCORINGS
from eplb.evaluation.table import table
from eplb.placement import Deployment
from eplb.sandbox.runner import Sandbox
from eplb.throughput.profile import add_arguments

# How run_evo.py hands an argument to this command.
ARGUMENT = "+distributed_job_config.extra_cmd_args"
SIZES = {
    "num_replicas": "slots",
    "num_groups": "expert groups",
    "num_nodes": "nodes",
    "num_gpus": "GPUs",
}


def parser() -> ArgumentParser:
    p = ArgumentParser(description="Score an expert-parallelism load balancer.")
    file = {"type": path_argument, "metavar": "PATH"}
    p.add_argument("--program_path", **file, required=True, help="the program: one Python file")
    p.add_argument("--results_dir", **file, default=Path("results"), help="default: results")
    p.add_argument("--trace", **file, help="load history (default: the embedded one)")
    for name, what in SIZES.items():
        default = f"the trace's, or {getattr(Deployment, name)}"
        p.add_argument(f"--{name}", type=positive_int, help=f"{what} (default: {default})")
    p.add_argument(
        "--rebalance_interval", type=positive_int, help="records per window (default: the trace's)"
    )
    p.add_argument(
        "--repeats", type=positive_int, default=3, help="runs, each in a fresh process (default: 3)"
    )
    p.add_argument(
        "--locality",
        choices=("report", "require"),
        default="report",
        help="whether a group spread over nodes is reported (default) or refused",
    )
    p.add_argument(
        "--scoring", choices=SCORINGS, default="eplb", help="the combined score (default: eplb)"
    )
    add_arguments(p)
    p.add_argument(
        "--timeout", type=positive_seconds, default=60.0, help="seconds for one run (default: 60)"
    )
    p.add_argument(
        "--fresh",
        type=positive_int,
        metavar="N",
        help="score it on N traces too that are drawn now, which no program can know",
    )
    p.add_argument("--plots", action="store_true", help="draw plots/*.png in the results folder")
    p.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return p


def results_dir_of(arguments: list[str]) -> Path | None:
    """The results folder, also where the other arguments are wrong; None where it is wrong."""
    only = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    only.add_argument("--results_dir", type=path_argument, default=Path("results"))
    try:
        return only.parse_known_args(arguments)[0].results_dir
    except argparse.ArgumentError:
        return None


def fresh(args: argparse.Namespace, known: float) -> dict[str, Any]:
    """Scores on traces drawn now, and how far below the ``known`` trace's score their mean is."""
    from eplb.evaluation.fresh import draw, mean_score, score_fresh

    with Sandbox(args.timeout, (args.results_dir,)) as sandbox, progress_bar("fresh") as progress:
        [scores] = score_fresh(
            [args.program_path],
            draw(args.fresh),
            sandbox,
            require_locality=args.locality == "require",
            scoring=args.scoring,
            dispatch=args.dispatch,
            hardware=args.hardware,
            progress=progress,
        )
    mean = mean_score(scores)
    return {"scores": [score.record for score in scores], "mean": mean, "gap": known - mean}


def score(args: argparse.Namespace) -> int:
    """Evaluate, write the results and print them."""
    settings = Settings(
        program=args.program_path,
        trace=args.trace or project_file("expert-load.json"),
        sizes={name: getattr(args, name) for name in SIZES},
        rebalance_interval=args.rebalance_interval,
        repeats=args.repeats,
        require_locality=args.locality == "require",
        timeout=args.timeout,
        seed_history=args.plots,
        hidden=(args.results_dir,),
        dispatch=args.dispatch,
        hardware=tuple(args.hardware),
    )
    with progress_bar("evaluating") as progress:
        evaluation = evaluate(settings, progress)
    metrics = metrics_of(evaluation, args.scoring)
    if args.fresh and evaluation.refusal is None:
        metrics["private"]["fresh"] = fresh(args, metrics["combined_score"])
    if args.plots and evaluation.refusal is None:
        from eplb.evaluation.plots import draw

        draw(evaluation, args.results_dir / "plots")
    write_results(args.results_dir, metrics)
    correct = evaluation.refusal is None
    if args.json:
        print(json.dumps({"correct": correct, **metrics}, indent=2))
    else:
        print(table(metrics, args.results_dir, next_command(args)))
    return DONE if correct else FAILED


def next_command(args: argparse.Namespace) -> str:
    """What to type after a score: see it confirmed, and then let it be improved.

    Carries everything that the program was scored with and that is not the default.
    """
    if args.fresh is None:
        return f"python {shlex.join(sys.argv)} --fresh 3"
    start = args.program_path.absolute()
    command = ["python", "run_evo.py", f"evo_config.init_program_path={start}"]
    default = vars(parser().parse_args(["--program_path", "-"]))
    ours = ("program_path", "results_dir", "fresh", "plots", "json")
    for name, value in vars(args).items():
        if name not in ours and value != default[name]:
            setting = name if name in ("trace", "locality", "scoring") else f"{ARGUMENT}.{name}"
            value = value.absolute() if isinstance(value, Path) else value
            command.append(f"{setting}={value}")
    return shlex.join(command)


def main() -> int:
    results_dir = results_dir_of(sys.argv[1:])
    try:
        args = parser().parse_args()
        prepare(args.results_dir)
        return score(args)
    except UserError as error:
        # ShinkaEvolve takes whatever it finds: an earlier program's score must not pass for this.
        if results_dir is not None and results_dir.is_dir():
            prepare(results_dir)
            write_misuse(results_dir, str(error))
        raise


if __name__ == "__main__":
    exit_on_user_error(main)

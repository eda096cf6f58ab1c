"""Score the seed and every shipped program: `python -m eplb.bench.leaderboard`.

Covered: balancedness on the window that followed and what is kept of the ideal tokens per second,
under even and lp dispatch, the gap to the lower bound, time, migrations and node locality, as
tables in Markdown and a plot of balancedness over speed; the lead over the best published program,
which is any that is neither the seed nor in programs/. Figures are means over the workloads of
several seeds, and times those on the first. With ``--spare_slots`` neither the seed nor speed is
measured, and scenarios share the processors. Workloads are those of `eplb.bench.scenarios` with
seeds on which no program was tuned. A program that is refused is listed with the reason, in place
of figures. Not covered: other window lengths than the trace's own.
"""

from __future__ import annotations

import argparse
import os
import signal
import textwrap
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from tqdm import tqdm

from eplb.bench import command, plots, scenarios
from eplb.bench.scenarios import SCENARIOS, Scenario
from eplb.common import (
    DONE,
    exit_on_user_error,
    output_argument,
    pareto_front,
    project_file,
    write_text,
)
from eplb.evaluation.measure import SEED, ProgramRun, run_program
from eplb.evaluation.scores import PlacementScores, call_ms, mean
from eplb.placement import Deployment
from eplb.reference import replicate
from eplb.sandbox.runner import Refused, Sandbox
from eplb.trace import History

HELD_OUT_SEED = 2026
# What is shown, and how, in the order of `achieved`.
BALANCEDNESS, SPEED, NODE_LOCAL = "balancedness", "x seed's speed", "node-local"
GAPS = ("over the bound", "on the window seen")
COLUMNS = {
    BALANCEDNESS: ".4f",
    "balancedness under lp": ".4f",
    "kept, prefill": ".4f",
    "kept, decode": ".4f",
    "kept under lp, prefill": ".4f",
    "kept under lp, decode": ".4f",
    **dict.fromkeys(GAPS, "+.1%"),
    "slots moved": ".0%",
    NODE_LOCAL: ".0%",
    "ms": ".3g",
    SPEED: ".3g",
}
# Those that have a table of their own.
SUMMARIES = list(COLUMNS)[:8]
Figures = dict[str, float]
# A program's figures on each workload, and their `MEAN`.
MEAN = "mean"
Found = dict[str, Figures] | Refused
# By scenario, and then by program.
Results = dict[str, dict[str, Found]]
Cell = Callable[[str, str], str]


def lower_bounds(load: np.ndarray, deployment: Deployment) -> np.ndarray:
    """[rows] float64: no placement has a hottest GPU with fewer tokens of ``load``.

    load: [rows, experts]. A GPU holds at least the mean, and at least the largest replica, which
    greedy replication makes as small as it can be.
    """
    largest = (load / replicate(load, deployment.num_replicas)).max(axis=1)
    return np.maximum(load.sum(axis=1) / deployment.num_gpus, largest)


def achieved(run: ProgramRun, history: History, scenario: Scenario) -> Figures:
    """The figures of one run, by `COLUMNS`; times where the seed was timed.

    The gaps are those of the hottest GPU to the lower bound, on the window that followed and on
    the window seen, which only replication and packing can lose.
    """
    deployment, windows, ms = scenario.deployment, history.windows, call_ms(run.seconds)
    even, lp = (
        PlacementScores(run.placements, history, deployment, serving)
        for serving in scenario.servings
    )
    bounds = lower_bounds(windows.reshape(-1, windows.shape[2]), deployment)
    mean_load = windows.sum(axis=(1, 2)) / deployment.num_gpus
    best = mean_load / bounds.reshape(len(windows), -1).sum(axis=1)
    values = [
        mean(even.balancedness_score),
        mean(lp.balancedness_score),
        *(worth.kept for scores in (even, lp) for worth in scores.worth(ms / 1e3).values()),
        mean(best[1:] / even.balancedness_score) - 1,
        mean(best[:-1] / even.balancedness_oracle) - 1,
        mean(even.migrated_experts) / deployment.num_replicas,
        mean(even.node_locality),
    ]
    times = [ms, call_ms(run.seed_seconds) / ms] if run.seed_seconds.size else []
    return dict(zip(COLUMNS, values + times))


def measure(
    sandbox: Sandbox, program: Path, scenario: Scenario, histories: dict[str, History], **timed
) -> Found:
    """What ``program`` achieves on each of ``histories``; ``timed``: how to run it on the first."""
    found = {}
    for name, history in histories.items():
        given = (sandbox, program, history.seen, scenario.deployment)
        try:
            run = run_program(*given, **({} if found else timed))
        except Refused as error:
            return error
        found[name] = achieved(run, history, scenario)
    every = list(found.values())
    means = {figure: float(np.mean([each[figure] for each in every])) for figure in every[-1]}
    return {MEAN: every[0] | means, **found}


def score(scenario: Scenario, args: argparse.Namespace) -> tuple[dict[str, Found], str]:
    """What every program achieves on ``scenario``, and what the sandbox enforced."""
    programs = args.programs if args.spare_slots else [project_file(SEED), *args.programs]
    timed = {"repeats": args.repeats, "time_seed": not args.spare_slots}
    with Sandbox(timeout=600, hidden=tuple(Path(file) for file, *_ in args.trace)) as sandbox:
        given = (scenario, scenario.histories(args.seeds))
        found = {each.name: measure(sandbox, each, *given, **timed) for each in programs}
        return found, sandbox.isolation


def table(title: str, of: str, rows: Iterable[str], columns: Iterable[str], cell: Cell) -> str:
    """In Markdown, what ``cell`` says of each row and column; ``of``: what the rows are."""
    lines = [[row, *(cell(row, column) for column in columns)] for row in rows]
    return command.markdown([[of, *columns], *lines], title)


def figures_of(scenario: str, rows: dict[str, Found]) -> str:
    """In Markdown, all that was measured on one scenario."""
    refused = {name: found for name, found in rows.items() if isinstance(found, Refused)}
    known = next((rows[name][MEAN] for name in rows if name not in refused), COLUMNS)

    def cell(name: str, figure: str) -> str:
        return "refused" if name in refused else format(rows[name][MEAN][figure], COLUMNS[figure])

    reasons = "".join(
        f"- {name}: refused: {textwrap.shorten(str(found), 160)}\n"
        for name, found in refused.items()
    )
    return "\n".join(filter(None, [table(scenario, "program", rows, known, cell), reasons]))


def others(names: Iterable[str]) -> set[str]:
    """Those of ``names`` that are no files of this project's programs."""
    return set(names) - {path.name for path in (*command.shipped_programs(), Path(SEED))}


def lead(rows: dict[str, Found], program: str, figure: str, workload: str = MEAN) -> float:
    """By how much ``program`` is ahead of the best published one; infinite where one is missing.

    One that keeps every group of experts on one node is compared with such ones alone.
    """
    mine = rows[program]
    if isinstance(mine, Refused):
        return np.inf
    sign = -1 if figure in GAPS else 1
    published = (rows[name] for name in others(rows))
    rivals = [
        sign * found[workload][figure]
        for found in published
        if not isinstance(found, Refused)
        if found[MEAN][NODE_LOCAL] == 1 or mine[MEAN][NODE_LOCAL] < 1
    ]
    return sign * mine[workload][figure] - max(rivals, default=-np.inf)


def leads(results: Results, figure: str, ours: list[str]) -> str:
    """In Markdown, the leads of ``ours`` in every scenario."""

    def cell(scenario: str, program: str) -> str:
        value = lead(results[scenario], program, figure)
        return f"{value:+.4f}" if value < np.inf else ""

    title = f"{figure.capitalize()}, ahead of the best published program"
    return table(title, "scenario", results, ours, cell)


def least_leads(results: Results, ours: list[str]) -> str:
    """In Markdown, the least lead of each of ``ours`` on any single workload, and where it is."""

    def cell(figure: str, program: str) -> str:
        found = (
            (lead(rows, program, figure, workload), f"{scenario}, {workload}")
            for scenario, rows in results.items()
            if not isinstance(rows[program], Refused)
            for workload in rows[program].keys() - {MEAN}
        )
        value, where = min(found, default=(np.inf, ""))
        return f"{value:+.4f} ({where})" if value < np.inf else ""

    title = "Least lead over the best published program, on the workload of a single seed"
    return table(title, "figure", SUMMARIES, ours, cell)


def summaries(results: Results) -> str:
    """In Markdown, how far this project's programs are ahead, if there are others."""
    programs = next(iter(results.values()))
    published = others(programs)
    ours = [name for name in programs if name not in {*published, SEED}]
    parts = [least_leads(results, ours), *(leads(results, each, ours) for each in SUMMARIES)]
    return "\n".join(parts if published else [])


def page(heading: str, results: Results) -> str:
    """Everything in Markdown; the tables of single scenarios are many, and folded up."""
    folded = (
        f"<details><summary>{scenario}</summary>\n\n{figures_of(scenario, rows)}\n</details>\n"
        for scenario, rows in results.items()
    )
    return "\n".join([heading, summaries(results), *folded])


def draw(results: Results, path: Path) -> None:
    """Balancedness over speed, with the front that no program dominates."""
    panels, names = [], set()
    for scenario, rows in results.items():
        points = {
            name: ([found[MEAN][SPEED]], [found[MEAN][BALANCEDNESS]])
            for name, found in rows.items()
            if not isinstance(found, Refused)
        }
        front = pareto_front(points.values(), lambda point: (point[0][0], point[1][0]))
        speeds, balances = (np.repeat(each, 2) for each in np.array(front).reshape(-1, 2).T)
        panels.append(plots.Panel(scenario, points, (speeds[1:], balances[:-1])))
        names |= set(points)
    axes = ("speed, the seed's = 1", "balancedness")
    title = "Balancedness on the next window over speed"
    plots.draw(path, title, panels, axes, "Pareto front", others(names))


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("python -m eplb.bench.leaderboard", __doc__)
    add = parser.add_argument
    add("--scenarios", nargs="+", metavar="NAME", help="parts of their names; default: all")
    sizes = ("FILE", "REPLICAS", "GROUPS", "NODES", "GPUS")
    recorded = "a recorded workload as one more scenario; may be repeated"
    add("--trace", nargs=5, action="append", default=[], metavar=sizes, help=recorded)
    spare = "each scenario with N more slots on a GPU than its experts need"
    add("--spare_slots", type=int, nargs="+", default=[], metavar="N", help=spare)
    seeds = f"of the workloads; default: {HELD_OUT_SEED}"
    add("--seeds", type=int, nargs="+", default=[HELD_OUT_SEED], metavar="S", help=seeds)
    add("--output", type=output_argument, metavar="FILE", help="write the tables there too")
    args = parser.parse_args(arguments)
    if args.plot and args.spare_slots:
        parser.error("--plot shows speed, which is not measured with --spare_slots")
    args.seeds, numbers = [*dict.fromkeys(args.seeds)], dict.fromkeys(args.spare_slots)
    compared = [*SCENARIOS, *(scenarios.recorded(*trace) for trace in args.trace)]
    if args.scenarios:
        compared = scenarios.chosen(args.scenarios, compared)
    compared = [each.with_spare(n) for each in compared for n in numbers] or compared
    programs = {project_file(SEED), *(path.resolve() for path in args.programs)}
    command.check_names("--programs", (path.name for path in programs))
    command.check_names("--trace", (each.name for each in compared))
    results: Results = {}
    measured, seeds = command.measured(), ", ".join(map(str, args.seeds))
    # Programs are timed one at a time. An interrupt is for this process, which ends the others.
    processes, deaf = os.cpu_count() if args.spare_slots else 1, (signal.SIGINT, signal.SIG_IGN)
    bar = tqdm(total=len(compared), leave=False, disable=None)
    with bar, Pool(processes, signal.signal, deaf) as pool:
        found = pool.imap(partial(score, args=args), compared)
        for scenario, (rows, isolation) in zip(compared, found):
            results[scenario.name] = rows
            heading = f"{measured}; {isolation}; workload seeds {seeds}.\n"
            bar.clear()
            print(figures_of(scenario.name, rows), flush=True)
            bar.update()
            if args.output:
                write_text(args.output, page(heading, results))
    print(f"{summaries(results)}\n{heading}")
    if args.plot:
        draw(results, args.plot)
    return DONE


if __name__ == "__main__":
    exit_on_user_error(main)

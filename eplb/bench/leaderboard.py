"""Score the seed and every shipped program: `python -m eplb.bench.leaderboard`.

Covered: balancedness on the window that followed and what is kept of the ideal tokens per second,
under even and lp dispatch, the gap to the lower bound, time, migrations and node locality, as
tables in Markdown and a plot of balancedness over speed; the lead over the best published program,
which is any that is neither the seed nor in programs/. With ``--spare_slots`` a table a figure
shows it over the spare slots of a GPU; neither the seed nor speed is measured then. Workloads are
those of `eplb.bench.scenarios` with a seed of their own, on which no program was tuned. A program
that is refused is listed with the reason, in place of figures. Not covered: other window lengths
than the trace's own.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Iterable
from itertools import product
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
from eplb.evaluation.measure import SEED, run_program
from eplb.evaluation.scores import PlacementScores, call_ms, mean
from eplb.placement import Deployment
from eplb.reference import replicate
from eplb.sandbox.runner import Refused, Sandbox
from eplb.throughput.profile import Serving
from eplb.trace import History

HELD_OUT_SEED = 2026
# What is shown, and how: means over the windows, in the order of `measure`.
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
    "ms": ".3g",
    SPEED: ".3g",
    "slots moved": ".0%",
    NODE_LOCAL: ".0%",
}
# Those that have a table of their own.
SUMMARIES = list(COLUMNS)[:8]
Found = dict[str, float] | Refused
# By the number of spare slots, or by scenario, and then by program.
Columns = dict[str, dict[str, Found]]
Cell = Callable[[str, str], str]


def lower_bounds(load: np.ndarray, deployment: Deployment) -> np.ndarray:
    """[rows] float64: no placement has a hottest GPU with fewer tokens of ``load``.

    load: [rows, experts]. A GPU holds at least the mean, and at least the largest replica, which
    greedy replication makes as small as it can be.
    """
    largest = (load / replicate(load, deployment.num_replicas)).max(axis=1)
    return np.maximum(load.sum(axis=1) / deployment.num_gpus, largest)


def measure(
    sandbox: Sandbox, program: Path, scenario: Scenario, history: History, repeats: int, speed: bool
) -> dict[str, float]:
    """What ``program`` achieves, by `COLUMNS`; raises `Refused`, and `UserError` for the seed.

    The gaps are those of the hottest GPU to the lower bound, on the window that followed and on
    the window seen, which only replication and packing can lose.
    """
    deployment, windows = scenario.deployment, history.windows
    settings = {"repeats": repeats, "time_seed": speed}
    run = run_program(sandbox, program, history.seen, deployment, **settings)
    even, lp = (
        PlacementScores(run.placements, history, deployment, Serving.of(scenario.hardware, rule))
        for rule in ("even", "lp")
    )
    ms = call_ms(run.seconds)
    bounds = lower_bounds(windows.reshape(-1, windows.shape[2]), deployment)
    mean_load = windows.sum(axis=(1, 2)) / deployment.num_gpus
    best = mean_load / bounds.reshape(len(windows), -1).sum(axis=1)
    values = (
        mean(even.balancedness_score),
        mean(lp.balancedness_score),
        *(worth.kept for scores in (even, lp) for worth in scores.worth(ms / 1e3).values()),
        mean(best[1:] / even.balancedness_score) - 1,
        mean(best[:-1] / even.balancedness_oracle) - 1,
        ms,
        call_ms(run.seed_seconds) / ms if speed else np.nan,
        mean(even.migrated_experts) / deployment.num_replicas,
        mean(even.node_locality),
    )
    return dict(zip(COLUMNS, values, strict=True))


def score(sandbox: Sandbox, scenario: Scenario, args: argparse.Namespace) -> Columns:
    """Every program on ``scenario``, or on its variant with each number of spare slots."""
    history = scenario.history(args.seed)
    experts = history.windows.shape[2]
    variants = {f"{n} spare": scenario.with_spare(n, experts) for n in args.spare_slots}
    programs = args.programs if variants else [project_file(SEED), *args.programs]
    variants = variants or {"": scenario}
    columns: Columns = {name: {} for name in variants}
    settings = (history, args.repeats, not args.spare_slots)
    runs = list(product(variants, programs))
    for name, program in tqdm(runs, scenario.name, leave=False, disable=None):
        try:
            found = measure(sandbox, program, variants[name], *settings)
        except Refused as error:
            found = error
        columns[name][program.name] = found
    return columns


def shown(found: Found, figure: str) -> str:
    """The cell of one figure of one program."""
    return "refused" if isinstance(found, Refused) else format(found[figure], COLUMNS[figure])


def table(title: str, programs: Iterable[str], columns: Iterable[str], cell: Cell) -> str:
    """In Markdown, what ``cell`` says of each program and column."""
    lines = [[program, *(cell(program, column) for column in columns)] for program in programs]
    return command.markdown([["program", *columns], *lines], title)


def by_column(title: str, columns: Columns, figure: str) -> str:
    """One figure of all programs in ``columns``."""
    programs = next(iter(columns.values()))
    return table(
        title, programs, columns, lambda name, column: shown(columns[column][name], figure)
    )


def tables(scenario: str, columns: Columns) -> str:
    """One scenario in Markdown: all figures, or over spare slots each that has its own table."""
    refused = [
        f"- {f'{program} {name}'.strip()}: refused: {textwrap.shorten(str(found), 160)}\n"
        for name, rows in columns.items()
        for program, found in rows.items()
        if isinstance(found, Refused)
    ]
    if "" in columns:
        rows = columns[""]
        parts = [table(scenario, rows, COLUMNS, lambda name, figure: shown(rows[name], figure))]
    else:
        parts = [by_column(f"{scenario}: {figure}", columns, figure) for figure in SUMMARIES]
    return "\n".join([*parts, *(["".join(refused)] if refused else [])])


def others(names: Iterable[str]) -> set[str]:
    """Those of ``names`` that are no files of this project's programs."""
    return set(names) - {path.name for path in (*command.shipped_programs(), Path(SEED))}


def lead(rows: dict[str, Found], program: str, figure: str) -> float:
    """By how much ``program`` is ahead of the best published one; infinite where one is missing.

    One that keeps every group of experts on one node is compared with such ones alone.
    """
    mine = rows[program]
    if isinstance(mine, Refused):
        return np.inf
    sign = -1 if figure in GAPS else 1
    published = (rows[name] for name in others(rows))
    rivals = [
        sign * found[figure]
        for found in published
        if not isinstance(found, Refused)
        if found[NODE_LOCAL] == 1 or mine[NODE_LOCAL] < 1
    ]
    return sign * mine[figure] - max(rivals, default=-np.inf)


def leads(results: dict[str, Columns], figure: str) -> str:
    """In Markdown, the leads of this project's programs: the least over spare slots, and where."""

    def least(program: str, scenario: str) -> str:
        columns = results[scenario]
        value, where = min((lead(rows, program, figure), name) for name, rows in columns.items())
        return f"{value:+.4f} ({where})".removesuffix(" ()") if value < np.inf else ""

    rows = next(iter(next(iter(results.values())).values()))
    ours = [name for name in rows if name not in {*others(rows), SEED}]
    return table(
        f"{figure.capitalize()}, ahead of the best published program", ours, results, least
    )


def summaries(results: dict[str, Columns]) -> str:
    """In Markdown, what the tables of all scenarios come to."""
    parts = []
    if any(others(rows) for columns in results.values() for rows in columns.values()):
        parts += [leads(results, figure) for figure in SUMMARIES]
    columns = {scenario: columns[""] for scenario, columns in results.items() if "" in columns}
    if columns:
        parts += [by_column(figure.capitalize(), columns, figure) for figure in SUMMARIES]
    return "\n".join(parts)


def page(heading: str, results: dict[str, Columns]) -> str:
    """Everything in Markdown; tables over spare slots are many, and folded up."""
    parts = [heading, summaries(results)]
    for scenario, columns in results.items():
        text = tables(scenario, columns)
        folded = f"<details><summary>{scenario}</summary>\n\n{text}\n</details>\n"
        parts.append(text if "" in columns else folded)
    return "\n".join(parts)


def draw(results: dict[str, Columns], path: Path) -> None:
    """Balancedness over speed, with the front that no program dominates."""
    panels, names = [], set()
    for scenario, columns in results.items():
        points = {
            name: ([found[SPEED]], [found[BALANCEDNESS]])
            for name, found in columns[""].items()
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
    add("--seed", type=int, default=HELD_OUT_SEED, help="of the workloads")
    add("--output", type=output_argument, metavar="FILE", help="write the tables there too")
    args = parser.parse_args(arguments)
    if args.plot and args.spare_slots:
        parser.error("--plot shows speed, which is not measured with --spare_slots")
    compared = [*SCENARIOS, *(scenarios.recorded(*trace) for trace in args.trace)]
    if args.scenarios:
        compared = scenarios.chosen(args.scenarios, compared)
    programs = {project_file(SEED), *(path.resolve() for path in args.programs)}
    command.check_names("--programs", (path.name for path in programs))
    command.check_names("--trace", (each.name for each in compared))
    results: dict[str, Columns] = {}
    measured = command.measured()
    with Sandbox(timeout=600, hidden=tuple(Path(file) for file, *_ in args.trace)) as sandbox:
        for each in compared:
            results[each.name] = score(sandbox, each, args)
            print(tables(each.name, results[each.name]), flush=True)
            heading = f"{measured}; {sandbox.isolation}; workload seed {args.seed}.\n"
            if args.output:
                write_text(args.output, page(heading, results))
    print(f"{summaries(results)}\n{heading}")
    if args.plot:
        draw(results, args.plot)
    return DONE


if __name__ == "__main__":
    exit_on_user_error(main)

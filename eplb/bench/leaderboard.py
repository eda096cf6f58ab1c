"""Score the seed and every shipped program: `python -m eplb.bench.leaderboard`.

Covered: balancedness on the window that followed under even and lp dispatch, what is kept of the
ideal tokens per second in prefill and decode, the gap to the lower bound, time, migrations and node
locality, as a table in Markdown and a plot of balancedness over time. Workloads are those of
`eplb.workload_model` with a seed of their own, on which no program was tuned, and recorded ones
that are named. A program that is refused in a scenario is listed there with the reason, in place of
figures. Not covered: other window lengths than the trace's own.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eplb.bench import command, plots
from eplb.common import (
    DONE,
    UserError,
    exit_on_user_error,
    output_argument,
    pareto_front,
    positive_int,
    progress_bar,
    project_file,
    write_text,
)
from eplb.evaluation.measure import SEED, run_program
from eplb.evaluation.scores import Figures, PlacementScores, mean
from eplb.placement import Deployment
from eplb.reference import replicate
from eplb.sandbox.runner import Refused, Sandbox
from eplb.throughput.profile import DEFAULT, Serving
from eplb.trace import History, Trace, read_trace
from eplb.workload_model import PRESETS, generate

HELD_OUT_SEED = 2026


@dataclass(frozen=True)
class Scenario:
    """A workload on a deployment.

    workload: the name of a preset in `eplb.workload_model`, or a recorded one
    hardware: what tokens per second are told for, of `eplb.throughput.profile`
    """

    name: str
    workload: str | Trace
    deployment: Deployment
    hardware: tuple[str, ...] = (DEFAULT,)


# Experts of 3 x 4096 x 1536 weights of a byte.
QWEN3 = (DEFAULT, "bytes_per_expert=18874368")
SCENARIOS = (
    Scenario("DeepSeek-V3 EP32", "deepseek-v3", Deployment(288, 8, 4, 32)),
    Scenario("DeepSeek-V3 EP144", "deepseek-v3", Deployment(288, 8, 18, 144)),
    Scenario("Qwen3-235B EP32", "qwen3-235b", Deployment(160, 1, 4, 32), QWEN3),
    Scenario("Kimi-K2 EP64", "kimi-k2", Deployment(448, 1, 8, 64)),
    Scenario("bursty, EP32", "bursty", Deployment(288, 8, 4, 32)),
    Scenario("stationary, EP32", "stationary", Deployment(288, 8, 4, 32)),
    Scenario("requests, EP32", "requests", Deployment(288, 8, 4, 32)),
)
# What a table shows, and how: means over the windows, in the order of `measure`.
BALANCEDNESS, SPEED = "balancedness", "x seed's speed"
COLUMNS = {
    BALANCEDNESS: ".4f",
    "balancedness under lp": ".4f",
    "kept, prefill": ".4f",
    "kept, decode": ".4f",
    "over the bound": "+.1%",
    "on the window seen": "+.1%",
    "ms": ".3g",
    SPEED: ".3g",
    "slots moved": ".0%",
    "node-local": ".0%",
}
SUMMARIES = list(COLUMNS)[:4]
Rows = dict[str, dict[str, float] | Refused]


def lower_bounds(load: np.ndarray, deployment: Deployment) -> np.ndarray:
    """[layers] float64: no placement has a hottest GPU with fewer tokens of ``load``.

    load: [layers, experts]. A GPU holds at least the mean, and at least the largest replica, which
    greedy replication makes as small as it can be.
    """
    largest = (load / replicate(load, deployment.num_replicas)).max(axis=1)
    return np.maximum(load.sum(axis=1) / deployment.num_gpus, largest)


def read_history(scenario: Scenario, seed: int) -> History:
    """The windows of the scenario's workload; ``seed`` is that of a generated one."""
    trace = scenario.workload
    if isinstance(trace, str):
        trace = generate(replace(PRESETS[trace], seed=seed))
    return History.of(trace)


def measure(
    sandbox: Sandbox,
    program: Path,
    scenario: Scenario,
    history: History,
    repeats: int,
    progress: Callable[[float], None],
) -> dict[str, float]:
    """What ``program`` achieves, by `COLUMNS`; raises `Refused`, and `UserError` for the seed.

    The gaps are those of the hottest GPU to the lower bound, on the window that followed and on
    the window seen, which only replication and packing can lose.
    """
    deployment, windows = scenario.deployment, history.windows
    settings = {"repeats": repeats, "time_seed": True, "progress": progress}
    run = run_program(sandbox, program, history.seen, deployment, **settings)
    scores, lp = (
        PlacementScores(run.placements, history, deployment, Serving.of(scenario.hardware, rule))
        for rule in ("even", "lp")
    )
    figures = Figures.of(scores, run.seconds, run.seed_seconds)
    bounds = np.array([lower_bounds(window, deployment).sum() for window in windows])
    best = windows.sum(axis=(1, 2)) / deployment.num_gpus / bounds
    values = (
        figures.balancedness_score,
        mean(lp.balancedness_score),
        figures.throughput["prefill"].kept,
        figures.throughput["decode"].kept,
        mean(best[1:] / scores.balancedness_score) - 1,
        mean(best[:-1] / scores.balancedness_oracle) - 1,
        figures.call_ms,
        figures.seed_call_ms / figures.call_ms,
        scores.means["migrated_experts"] / deployment.num_replicas,
        scores.means["node_locality"],
    )
    return dict(zip(COLUMNS, values, strict=True))


def table(name: str, rows: Rows) -> str:
    """One scenario in Markdown."""
    lines = [["program", *COLUMNS]]
    for program, figures in rows.items():
        if isinstance(figures, Refused):
            reason = textwrap.shorten(str(figures), 160).replace("|", "\\|")
            lines.append([program, f"refused: {reason}", *[""] * (len(COLUMNS) - 1)])
        else:
            cells = (format(figures[column], how) for column, how in COLUMNS.items())
            lines.append([program, *cells])
    return command.markdown(lines, name)


def summaries(results: dict[str, Rows]) -> str:
    """Tables of one figure each, a row a program and a column a scenario, in Markdown."""
    tables = []
    for column in SUMMARIES:
        lines = [["program", *results]]
        for program in next(iter(results.values())):
            same = [rows[program] for rows in results.values()]
            refused = (isinstance(each, Refused) for each in same)
            cells = [
                "refused" if out else format(each[column], COLUMNS[column])
                for out, each in zip(refused, same)
            ]
            lines.append([program, *cells])
        tables.append(command.markdown(lines, column.capitalize()))
    return "\n".join(tables)


def draw(results: dict[str, Rows], path: Path) -> None:
    """Balancedness over speed, with the front that no program dominates."""
    panels, names = [], set()
    for scenario, rows in results.items():
        measured = {name: each for name, each in rows.items() if not isinstance(each, Refused)}
        points = {
            Path(name).stem: ([each[SPEED]], [each[BALANCEDNESS]])
            for name, each in measured.items()
        }
        front = pareto_front(points.values(), lambda point: (point[0][0], point[1][0]))
        speeds, balances = (np.repeat(each, 2) for each in np.array(front).reshape(-1, 2).T)
        panels.append(plots.Panel(scenario, points, (speeds[1:], balances[:-1])))
        names |= set(points)
    others = names - {path.stem for path in (*command.shipped_programs(), Path(SEED))}
    axes = ("speed, the seed's = 1", "balancedness")
    title = "Balancedness on the next window over speed"
    plots.draw(path, title, panels, axes, "Pareto front", others)


def run(
    scenarios: list[Scenario],
    programs: list[Path],
    seed: int,
    repeats: int,
    hidden: tuple[Path, ...],
) -> tuple[dict[str, Rows], str]:
    """Measure and print every scenario, ``hidden`` files unseen; return rows and safeguards."""
    results: dict[str, Rows] = {}
    programs = [project_file(SEED), *programs]
    with Sandbox(timeout=600, hidden=hidden) as sandbox:
        for scenario in scenarios:
            rows = results[scenario.name] = {}
            with progress_bar(scenario.name) as progress:
                history = read_history(scenario, seed)
                for place, program in enumerate(programs):
                    count = 1 if program.name == SEED else repeats

                    def share(done: float, place: int = place) -> None:
                        progress((place + done) / len(programs))

                    try:
                        rows[program.name] = measure(
                            sandbox, program, scenario, history, count, share
                        )
                    except Refused as error:
                        rows[program.name] = error
            print(table(scenario.name, rows), flush=True)
        return results, sandbox.isolation


def with_spare(scenario: Scenario, spare: int) -> Scenario:
    """The scenario with so many more slots on each GPU than its experts need."""
    gpus, workload = scenario.deployment.num_gpus, scenario.workload
    experts = workload.loads.shape[2] if isinstance(workload, Trace) else PRESETS[workload].experts
    num_replicas = gpus * (-(-experts // gpus) + spare)
    deployment = replace(scenario.deployment, num_replicas=num_replicas)
    deployment.check(experts)
    return replace(scenario, name=f"{scenario.name}, {spare} spare", deployment=deployment)


def chosen_scenarios(names: list[str], scenarios: list[Scenario]) -> list[Scenario]:
    """The scenarios whose names contain any of ``names``."""
    chosen = [s for s in scenarios if any(name.lower() in s.name.lower() for name in names)]
    if not chosen:
        every = "; ".join(scenario.name for scenario in scenarios)
        raise UserError(f"--scenarios {' '.join(names)} matches none; there are: {every}")
    return chosen


def recorded_scenario(file: str, *numbers: str) -> Scenario:
    """The scenario that ``--trace`` describes; raises `UserError`."""
    try:
        deployment = Deployment(*map(positive_int, numbers))
        trace = read_trace(Path(file))
        History.of(trace)
        deployment.check(trace.loads.shape[2])
    except (argparse.ArgumentTypeError, UserError) as error:
        raise UserError(f"--trace {file} {' '.join(numbers)}: {error}") from error
    return Scenario(Path(file).name, trace, deployment)


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("python -m eplb.bench.leaderboard", __doc__)
    add = parser.add_argument
    add("--scenarios", nargs="+", metavar="NAME", help="parts of their names; default: all")
    sizes = ("FILE", "REPLICAS", "GROUPS", "NODES", "GPUS")
    recorded = "a recorded workload as one more scenario; may be repeated"
    add("--trace", nargs=5, action="append", default=[], metavar=sizes, help=recorded)
    spare = "each scenario with N more slots on a GPU than its experts need"
    add("--spare_slots", type=int, nargs="+", metavar="N", help=spare)
    add("--seed", type=int, default=HELD_OUT_SEED, help="of the workloads")
    add("--output", type=output_argument, metavar="FILE", help="write the table there too")
    args = parser.parse_args(arguments)
    scenarios = [*SCENARIOS, *(recorded_scenario(*trace) for trace in args.trace)]
    if args.scenarios:
        scenarios = chosen_scenarios(args.scenarios, scenarios)
    if args.spare_slots:
        scenarios = [with_spare(each, spare) for each in scenarios for spare in args.spare_slots]
    traces = tuple(Path(file) for file, *_ in args.trace)
    results, isolation = run(scenarios, args.programs, args.seed, args.repeats, traces)
    measured = f"{command.commit()}; {command.machine()}; one thread; {isolation}"
    heading = f"Commit {measured}; workload seed {args.seed}.\n"
    summary = summaries(results)
    print(f"{summary}\n{heading}")
    if args.output:
        tables = [heading, summary, *(table(*result) for result in results.items())]
        write_text(args.output, "\n".join(tables))
    if args.plot:
        draw(results, args.plot)
    return DONE


if __name__ == "__main__":
    exit_on_user_error(main)

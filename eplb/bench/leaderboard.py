"""Score the seed and every shipped program: `python -m eplb.bench.leaderboard`.

Covered: balancedness on the window that followed under even and lp dispatch, what is kept of the
ideal tokens per second in prefill and decode, the gap to the lower bound, time, migrations and node
locality, as a table in Markdown and a plot of balancedness over time. Workloads are those of
`eplb.workload_model` with a seed of their own, on which no program was tuned, and recorded ones
that are named. A program that is refused in a scenario is listed there with the reason, in place of
figures. Not covered: other window lengths than the trace's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from eplb.bench.pareto import Point, draw
from eplb.bench.provenance import commit, machine
from eplb.bench.tables import Refusal, Row, Scenario, summaries, table
from eplb.common import (
    DONE,
    ArgumentParser,
    UserError,
    exit_on_user_error,
    positive_int,
    project_file,
    write_text,
)
from eplb.evaluation.measure import SEED, run_program
from eplb.evaluation.scores import Figures, PlacementScores
from eplb.evaluation.scores import mean as score_mean
from eplb.placement import Deployment
from eplb.reference import replicate
from eplb.sandbox.runner import Refused, Sandbox
from eplb.throughput.profile import DEFAULT, Serving
from eplb.trace import History, Trace, read_trace
from eplb.workload_model import PRESETS, generate

HELD_OUT_SEED = 2026


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
    return History.of(trace, trace.interval())


def measure(
    scenario: Scenario, programs: list[Path], seed: int, repeats: int, sandbox: Sandbox
) -> Iterator[Row | Refusal]:
    """Run the seed program and then ``programs`` on ``scenario``; yield what each achieved.

    Raises `UserError` where the seed itself fails.
    """
    deployment = scenario.deployment
    history = read_history(scenario, seed)
    windows = history.windows
    bounds = np.array([lower_bounds(window, deployment).sum() for window in windows])
    mean = windows.sum(axis=(1, 2)) / deployment.num_gpus
    for program in (project_file(SEED), *programs):
        count = 1 if program.name == SEED else repeats
        try:
            run = run_program(
                sandbox, program, history.seen, deployment, repeats=count, time_seed=True
            )
        except Refused as error:
            yield Refusal(program.name, str(error))
            continue
        serving = {rule: Serving.of(scenario.hardware, rule) for rule in ("even", "lp")}
        placed = (run.placements, history, deployment)
        scores = PlacementScores(*placed, serving["even"])
        lp = PlacementScores(*placed, serving["lp"])
        figures = Figures.of(scores, run.seconds, run.seed_seconds)
        yield Row(
            program=program.name,
            balancedness=figures.balancedness_score,
            lp=score_mean(lp.balancedness_score),
            kept={phase: worth.kept for phase, worth in figures.throughput.items()},
            gap=float(np.nanmean(mean[1:] / scores.balancedness_score / bounds[1:])) - 1,
            seen_gap=float(np.nanmean(mean[:-1] / scores.balancedness_oracle / bounds[:-1])) - 1,
            ms=figures.call_ms,
            times_seed=figures.seed_call_ms / figures.call_ms,
            moved=scores.means["migrated_experts"] / deployment.num_replicas,
            node_local=scores.means["node_locality"],
        )


def with_spare(scenario: Scenario, spare: int) -> Scenario:
    """The scenario with so many more slots on each GPU than its experts need."""
    gpus, workload = scenario.deployment.num_gpus, scenario.workload
    experts = workload.loads.shape[2] if isinstance(workload, Trace) else PRESETS[workload].experts
    num_replicas = gpus * (-(-experts // gpus) + spare)
    deployment = replace(scenario.deployment, num_replicas=num_replicas)
    return replace(scenario, name=f"{scenario.name}, {spare} spare", deployment=deployment)


def points(rows: list[Row | Refusal], shipped: set[str]) -> list[Point]:
    """What the plot shows of programs that were not refused; ``shipped`` are this project's."""
    return [
        Point(
            row.program.removesuffix(".py"),
            row.times_seed,
            row.balancedness,
            row.program in shipped,
        )
        for row in rows
        if isinstance(row, Row)
    ]


def shipped_programs() -> list[Path]:
    return sorted(project_file("programs").glob("*.py"))


def run(
    scenarios: list[Scenario],
    programs: list[Path],
    seed: int,
    repeats: int,
    hidden: tuple[Path, ...] = (),
) -> tuple[list[tuple[Scenario, list[Row | Refusal]]], str]:
    """Measure and print every scenario, ``hidden`` files unseen; return rows and safeguards."""
    results = []
    total = len(scenarios) * (1 + len(programs))
    with Sandbox(timeout=600, hidden=hidden) as sandbox, tqdm(total=total, disable=None) as bar:
        for scenario in scenarios:
            rows = []
            for row in measure(scenario, programs, seed, repeats, sandbox):
                rows.append(row)
                bar.update()
            results.append((scenario, rows))
            tqdm.write(table(scenario, rows))
        return results, sandbox.isolation


def chosen_scenarios(names: list[str], scenarios: list[Scenario]) -> list[Scenario]:
    """The scenarios whose names contain any of ``names``."""
    chosen = [s for s in scenarios if any(name.lower() in s.name.lower() for name in names)]
    if not chosen:
        every = ", ".join(scenario.name for scenario in scenarios)
        raise UserError(f"--scenarios {' '.join(names)} matches none; there are: {every}")
    return chosen


def recorded_scenario(file: str, *numbers: str) -> Scenario:
    """The scenario that ``--trace`` describes; raises `UserError`."""
    try:
        deployment = Deployment(*map(int, numbers))
        trace = read_trace(Path(file))
        History.of(trace, trace.interval())
        deployment.check(trace.loads.shape[2])
    except ValueError as error:
        raise UserError(
            f"--trace {file} {' '.join(numbers)}: after the file come whole numbers of replicas, "
            "groups, nodes and GPUs"
        ) from error
    except UserError as error:
        raise UserError(f"--trace {file}: {error}") from error
    return Scenario(Path(file).name, trace, deployment)


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(
        prog="python -m eplb.bench.leaderboard",
        description="Score every program on every scenario.",
    )
    parser.add_argument(
        "--programs", type=Path, nargs="+", metavar="FILE", help="default: all in programs/"
    )
    parser.add_argument(
        "--scenarios", nargs="+", metavar="NAME", help="parts of their names; default: all"
    )
    parser.add_argument(
        "--trace",
        nargs=5,
        action="append",
        default=[],
        metavar=("FILE", "REPLICAS", "GROUPS", "NODES", "GPUS"),
        help="a recorded workload as one more scenario; may be repeated",
    )
    parser.add_argument(
        "--spare_slots",
        type=int,
        nargs="+",
        metavar="N",
        help="each scenario with N more slots on a GPU than its experts need",
    )
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="of the workloads")
    parser.add_argument(
        "--repeats", type=positive_int, default=3, help="runs of a program; default: 3"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it, e.g. leaderboard.png")
    args = parser.parse_args(arguments)
    scenarios = [*SCENARIOS, *(recorded_scenario(*trace) for trace in args.trace)]
    if args.scenarios:
        scenarios = chosen_scenarios(args.scenarios, scenarios)
    if args.spare_slots:
        scenarios = [with_spare(each, spare) for each in scenarios for spare in args.spare_slots]
    programs = args.programs or shipped_programs()
    traces = tuple(Path(file) for file, *_ in args.trace)
    results, isolation = run(scenarios, programs, args.seed, args.repeats, traces)
    heading = (
        f"Commit {commit()}; {machine()}; one thread; {isolation}; workload seed {args.seed}.\n"
    )
    summary = summaries(results)
    print(f"{summary}\n{heading}")
    if args.output:
        tables = [heading, summary, *(table(*result) for result in results)]
        write_text(args.output, "\n".join(tables))
    if args.plot:
        shipped = {path.name for path in shipped_programs()} | {"initial.py"}
        draw([(scenario.name, points(rows, shipped)) for scenario, rows in results], args.plot)
    return DONE


if __name__ == "__main__":
    exit_on_user_error(main)

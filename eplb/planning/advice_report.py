"""The work behind plan_deployment.py: try out what to deploy, and say it with reasons.

Covered: tables, the recommendation and its command, comparisons, a picture. Not covered: the trial
itself (`eplb.planning.advice`).
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np

from eplb.common import UserError, project_file, replacing
from eplb.engines import registry
from eplb.engines.model import ExpertStatistics
from eplb.engines.reading import spans
from eplb.planning import advice, planner
from eplb.planning.advice import Past, Trial
from eplb.planning.load_table import columns
from eplb.sandbox.runner import Sandbox
from eplb.throughput.dispatch import RULES
from eplb.throughput.profile import Serving

# Choices whose tokens per second differ by less are as good as each other, and the simpler wins.
AS_GOOD = 0.005


def make(
    *,
    expert_statistic_path: Path,
    ep_size: Sequence[int],
    decode_statistic_path: Path | None,
    gpus_per_node: int,
    num_groups: int | None,
    iter_start: int | None,
    iter_stop: int | None,
    steps_per_iteration: int | None,
    program_path: Path | None,
    hardware: Sequence[str],
    dispatch: str,
    plot: Path | None,
    progress: Callable[[float], None],
) -> tuple[str, list[str]]:
    """The advice, and warnings. Raises `UserError`."""
    files = [path for path in (expert_statistic_path, decode_statistic_path) if path is not None]
    recorded = [registry.read_statistics(path, iter_start, iter_stop) for path in files]
    first = recorded[0]
    pasts = _pasts(files, recorded)
    serving = Serving.of(hardware, dispatch, first.top_k)
    program = program_path or project_file(planner.DEFAULT_PROGRAM)
    steps = steps_per_iteration or first.steps_per_iteration or 1
    groups = num_groups or first.num_groups or 1
    with Sandbox(planner.TIMEOUT, tuple(files)) as sandbox:
        trials, runs = advice.advise(
            pasts,
            list(dict.fromkeys(ep_size)),
            program,
            serving,
            gpus_per_node=gpus_per_node,
            num_groups=groups,
            steps_per_iteration=steps,
            sandbox=sandbox,
            progress=progress,
        )
    if plot is not None:
        draw(plot, trials)
    both = choose_for_all(trials)
    command = _command(expert_statistic_path, both[0], iter_start, iter_stop, groups)
    lines = [_heading(pasts["prefill"], program, steps, hardware, dispatch), ""]
    lines += _said(pasts, trials, runs, both, serving)
    warnings = list(dict.fromkeys(each for past in pasts.values() for each in past.warnings))
    if steps_per_iteration is None and first.steps_per_iteration is None:
        warnings.append(
            "the recording does not tell how many engine steps an iteration sums up; taken as 1, "
            "so that moves weigh as if intervals were so short: give --steps_per_iteration"
        )
    return "\n".join([*lines, "", "to make the file:", f"  {command}"]), warnings


def _pasts(files: list[Path], recorded: list[ExpertStatistics]) -> dict[str, Past]:
    """The windows of each phase; those of one recording are the same object."""
    first, last = recorded[0], recorded[-1]
    if first.loads.shape[1:] != last.loads.shape[1:]:
        raise UserError(
            f"{files[0]} and {files[-1]} are of two models: {first.loads.shape[1]} layers of "
            f"{first.num_experts} experts, and {last.loads.shape[1]} of {last.num_experts}"
        )
    live = np.any([each.loads.any(axis=(0, 2)) for each in recorded], axis=0)
    cut = [Past.of(statistics, live) for statistics in recorded]
    return {"prefill": cut[0], "decode": cut[-1]}


def _said(pasts, trials: list[Trial], runs, both: list[Trial], serving: Serving) -> list[str]:
    """Tables, the recommendation, and what is compared for it."""
    lines = []
    best = {phase: choose([t for t in trials if t.phase == phase]) for phase in pasts}
    for phase in pasts:
        lines += [*table([t for t in trials if t.phase == phase], best[phase]), ""]
    lines += [*_reasons(both, best, trials), ""]
    lines += [*_rules(pasts, runs, both, serving), ""]
    return lines + _phases(pasts, runs, both, serving)


def choose(trials: list[Trial]) -> Trial:
    """The fewest spare slots, then rebalancings, of those that are as good as the fastest."""
    return choose_for_all(trials)[0]


def choose_for_all(trials: list[Trial]) -> list[Trial]:
    """The one choice for all phases, a trial of each: the mean of what is reached of the best."""
    phases = {trial.phase for trial in trials}
    best = {p: max(t.tokens_per_gpu for t in trials if t.phase == p) for p in phases}
    alike: dict[tuple, list[Trial]] = {}
    for trial in trials:
        alike.setdefault((trial.deployment, trial.every), []).append(trial)

    def reached(group: list[Trial]) -> float:
        return sum(t.tokens_per_gpu / best[t.phase] for t in group) / len(group)

    # A recording of another length allows other intervals.
    groups = [group for group in alike.values() if len(group) == len(phases)]
    enough = max(map(reached, groups)) * (1 - AS_GOOD)
    fits = [group for group in groups if reached(group) >= enough]
    return min(fits, key=lambda group: (group[0].spare, -(group[0].every or math.inf)))


def _heading(past: Past, program: Path, steps: int, hardware: Sequence[str], dispatch: str) -> str:
    iterations = past.statistics.iterations
    cut = iterations.stop - len(past.held_out) * past.iterations
    return (
        f"planned with {program.name} on iterations up to {cut - 1}\n"
        f"judged on {spans([*range(cut, iterations.stop)])}: {len(past.held_out)} windows of "
        f"{past.iterations} iterations, {past.iterations * steps} steps\n"
        f"tokens per second of the expert layers alone, on {' '.join(hardware)}, "
        f"dispatch {dispatch}"
    )


def table(trials: list[Trial], best: Trial) -> list[str]:
    """Lines of a phase's table; the choice for that phase is marked."""
    head = "ranks spare GB/rank rebalance balanced kept gain tokens/s moved stall"
    rows = [["", *head.split()]]
    for t in trials:
        cells = (
            f"{t.deployment.num_gpus} {t.spare} {t.gigabytes:.1f} {t.steps if t.every else 'never'}"
            f" {t.balancedness:.4f} {t.worth.kept:.3f} {t.worth.gain:.3f} {t.tokens_per_gpu:.0f} "
            + (f"{t.moved:.0f} {t.stall:.3f}" if t.every else "- -")
        )
        rows.append(["*" if t is best else "", *cells.split()])
    return [
        f"{trials[0].phase}:",
        columns(rows),
        "  spare slots on each rank, steps from one rebalancing to the next, tokens/s a rank,",
        "  experts moved over all ranks and seconds of stall in each rebalancing",
    ]


def _words(trial: Trial) -> str:
    slots = f"{trial.spare or 'no'} spare slot{'s' * (trial.spare != 1)} a rank"
    return f"{trial.deployment.num_gpus} ranks, {slots}, {_often(trial)}"


def _often(trial: Trial) -> str:
    return f"rebalanced every {trial.steps} steps" if trial.every else "never rebalanced"


def _reasons(both: list[Trial], best: dict[str, Trial], trials: list[Trial]) -> list[str]:
    """The recommendation, and what speaks for it."""
    lines = [f"recommended: {_words(both[0])}"]
    for trial in both:
        peers = [t for t in trials if t.phase == trial.phase]
        fastest = max(peers, key=lambda t: t.tokens_per_gpu)
        plain = [
            t for t in peers if t.deployment.num_gpus == trial.deployment.num_gpus and not t.spare
        ]
        over = trial.tokens_per_gpu / max(t.tokens_per_gpu for t in plain) - 1
        behind = 1 - trial.tokens_per_gpu / fastest.tokens_per_gpu
        lost = ", ".join(
            f"{name.replace('_', ' ')} {share:.1%}" for name, share in trial.worth.lost.items()
        )
        lines.append(
            f"  {trial.phase}: {trial.worth.gain:.2f} x without EPLB, {over:+.1%} over no spare "
            f"slots, {behind:.1%} behind the fastest ({_words(fastest)}); lost to {lost}"
        )
    lines.append(
        f"  of all that reach {1 - AS_GOOD:.1%} of the best mean over the phases it has the fewest "
        "spare slots, then the fewest rebalancings"
    )
    lines += [f"  for {phase} alone: {_words(trial)}" for phase, trial in best.items()]
    return [fill(line, 96, subsequent_indent="    ") for line in lines]


def _rules(pasts, runs, both: list[Trial], serving: Serving) -> list[str]:
    rows = [["kept by dispatch:", *RULES]]
    for trial in both:
        past, profile = pasts[trial.phase], serving.profiles[trial.phase]
        stays = (past, runs[trial.phase, trial.deployment], past, trial.deployment, profile)
        worths = [advice.worth_if_it_stays(*stays, rule) for rule in RULES]
        rows.append([f"  {trial.phase}", *(f"{each.kept:.3f}" for each in worths)])
    return [columns(rows), "  of the recommended spare slots, without rebalancing"]


def _phases(pasts, runs, both: list[Trial], serving: Serving) -> list[str]:
    """Whether prefill and decode need plans of their own."""
    if pasts["prefill"] is pasts["decode"]:
        return [
            "whether prefill and decode need different plans, one recording cannot say;\n"
            "give --decode_statistic_path"
        ]
    deployment = both[0].deployment
    rows, worst = [["kept by a plan for:", *pasts]], 0.0
    for phase, served in pasts.items():
        setting = (served, deployment, serving.profiles[phase], serving.dispatch)
        kept = {
            planned: advice.worth_if_it_stays(past, runs[planned, deployment], *setting).kept
            for planned, past in pasts.items()
        }
        rows.append([f"  served {phase}", *(f"{value:.3f}" for value in kept.values())])
        worst = max(worst, 1 - min(kept.values()) / kept[phase])
    verdict = "need plans of their own" if worst > AS_GOOD else "can share a plan"
    costs = f"  prefill and decode {verdict}: the other's plan costs up to {worst:.1%}"
    return [columns(rows), costs]


def _command(
    recording: Path, trial: Trial, start: int | None, stop: int | None, groups: int
) -> str:
    deployment = trial.deployment
    words = ["python", "generate_eplb_config.py", "--expert_statistic_path", str(recording)]
    words += ["--ep_size", str(deployment.num_gpus), "--num_slots", str(deployment.num_replicas)]
    for name, value in (("iter_start", start), ("iter_stop", stop)):
        words += [] if value is None else [f"--{name}", str(value)]
    for name, value in (("num_nodes", deployment.num_nodes), ("num_groups", groups)):
        words += [] if value == 1 else [f"--{name}", str(value)]
    return shlex.join([*words, "--output_path", "moe_load_balancer.yaml"])


def draw(path: Path, trials: list[Trial]) -> None:
    """Tokens per second over memory, a panel a phase and a line an interval and EP size."""
    from matplotlib.figure import Figure

    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for t in trials:
        name = f"{t.deployment.num_gpus} ranks, {_often(t)}"
        points = lines.setdefault(t.phase, {}).setdefault(name, [])
        points.append((t.gigabytes, t.tokens_per_gpu))
    figure = Figure(figsize=(5.5 * len(lines), 4.5), layout="constrained")
    panels = figure.subplots(1, len(lines), squeeze=False)[0]
    for axes, (phase, named) in zip(panels, lines.items(), strict=True):
        for name, points in named.items():
            axes.plot(*zip(*sorted(points)), marker="o", markersize=4, label=name)
        axes.set(title=phase, xlabel="GB of expert weights on each rank", ylabel="tokens/s a rank")
        axes.legend(fontsize="small")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150)

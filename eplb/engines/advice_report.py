"""The work behind plan_deployment.py: try out what to deploy, and say it with reasons.

Covered: tables, the recommendation and its command, comparisons, a picture. Not covered: the trial
itself (`eplb.engines.advice`).
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np

from eplb.common import UserError, project_file, replacing
from eplb.engines import advice, registry
from eplb.engines.advice import Past, Trial
from eplb.engines.model import ExpertStatistics
from eplb.engines.reading import spans
from eplb.planning import planner
from eplb.planning.load_table import check_plot
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
    check_plot(plot)
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


def _interval(trial: Trial) -> str:
    return f"{trial.steps}" if trial.every else "never"


def _heading(past: Past, program: Path, steps: int, hardware: Sequence[str], dispatch: str) -> str:
    iterations = past.statistics.iterations
    cut = iterations.stop - len(past.held_out) * past.iterations
    return (
        f"planned with {program.name} on iterations up to {cut - 1}, judged on "
        f"{spans([*range(cut, iterations.stop)])}: {len(past.held_out)} windows of "
        f"{past.iterations} iterations, {past.iterations * steps} steps\n"
        f"tokens per second of the expert layers alone, on {' '.join(hardware)}, "
        f"dispatch {dispatch}"
    )


def table(trials: list[Trial], best: Trial) -> list[str]:
    """Lines of a phase's table; the choice for that phase is marked."""
    lines = [
        f"{trials[0].phase}:",
        "  ranks  spare  GB/rank  rebalance  balanced   kept   gain  tokens/s   moved  stall s",
    ]
    for t in trials:
        mark = "*" if t is best else " "
        lines.append(
            f"{mark} {t.deployment.num_gpus:>5}{t.spare:>7}{t.gigabytes:>9.1f}{_interval(t):>11}"
            f"{t.balancedness:>10.4f}{t.worth.kept:>7.3f}{t.worth.gain:>7.3f}"
            f"{t.tokens_per_gpu:>10.0f}"
            + (f"{t.moved:>8.0f}{t.stall:>9.3f}" if t.every else f"{'-':>8}{'-':>9}")
        )
    lines.append(
        "  spare slots on each rank; steps from one rebalancing to the next; tokens/s of each rank;"
    )
    lines.append("  experts moved over all ranks and seconds of stall in each rebalancing")
    return lines


def _words(trial: Trial) -> str:
    often = f"rebalance every {trial.steps} steps" if trial.every else "no rebalancing"
    slots = (
        f"{trial.spare} spare slot{'s' * (trial.spare != 1)} a rank"
        if trial.spare
        else ("no spare slots")
    )
    return f"{trial.deployment.num_gpus} ranks, {slots}, {often}"


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
    lines = [f"{'kept by dispatch:':<20}" + "".join(f"{rule:>9}" for rule in RULES)]
    for trial in both:
        run = runs[trial.phase, trial.deployment]
        worths = advice.under_rules(pasts[trial.phase], run, trial, serving, RULES)
        cells = "".join(f"{worths[rule].kept:>9.3f}" for rule in RULES)
        lines.append(f"  {trial.phase:<18}{cells}")
    lines.append("  of the recommended spare slots, without rebalancing")
    return lines


def _phases(pasts, runs, both: list[Trial], serving: Serving) -> list[str]:
    """Whether prefill and decode need plans of their own."""
    if pasts["prefill"] is pasts["decode"]:
        return [
            "whether prefill and decode need different plans, one recording cannot say; "
            "give --decode_statistic_path"
        ]
    deployment = both[0].deployment
    own = {phase: runs[phase, deployment] for phase in pasts}
    worths = advice.exchanged(pasts, own, deployment, serving)
    lines, worst = ["kept by a plan for:   prefill   decode"], 0.0
    for served in pasts:
        cells = "".join(f"{worths[planned, served].kept:>9.3f}" for planned in pasts)
        lines.append(f"  served {served:<11}{cells}")
        other = next(phase for phase in pasts if phase != served)
        worst = max(worst, 1 - worths[other, served].kept / worths[served, served].kept)
    verdict = "need plans of their own" if worst > AS_GOOD else "can share a plan"
    lines.append(f"  prefill and decode {verdict}: the other's plan costs up to {worst:.1%}")
    return lines


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

    phases = list(dict.fromkeys(trial.phase for trial in trials))
    figure = Figure(figsize=(5.5 * len(phases), 4.5), layout="constrained")
    panels = figure.subplots(1, len(phases), squeeze=False)[0]
    for axes, phase in zip(panels, phases, strict=True):
        lines: dict[str, list[Trial]] = {}
        for trial in (t for t in trials if t.phase == phase):
            name = f"{trial.deployment.num_gpus} ranks, rebalanced {_often(trial)}"
            lines.setdefault(name, []).append(trial)
        for name, points in lines.items():
            points.sort(key=lambda t: t.gigabytes)
            axes.plot(
                [t.gigabytes for t in points],
                [t.tokens_per_gpu for t in points],
                marker="o",
                markersize=4,
                label=name,
            )
        axes.set(title=phase, xlabel="GB of expert weights on each rank", ylabel="tokens/s a rank")
        axes.legend(fontsize="small")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150)


def _often(trial: Trial) -> str:
    return f"every {trial.steps} steps" if trial.every else "never"

"""The work behind plan_deployment.py: try out what to deploy, and say it with reasons.

Covered: tables, the recommendation and its command, comparisons, a picture. Not covered: the trial
itself (`eplb.planning.advice`).
"""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import fill

import numpy as np

from eplb.common import UserError, project_file, replacing
from eplb.engines import registry
from eplb.engines.model import ExpertStatistics
from eplb.engines.reading import spans
from eplb.placement import Deployment
from eplb.planning import planner
from eplb.planning.advice import SPARE_SLOTS, Study, Trial, deployment_of, doubts, in_windows
from eplb.planning.load_table import columns
from eplb.sandbox.runner import Sandbox
from eplb.throughput.dispatch import RULES
from eplb.throughput.profile import PHASES, Serving
from eplb.trace import History

# Choices whose tokens per second differ by less are as good as each other, and the simpler wins.
AS_GOOD = 0.005

Trials = dict[str, list[Trial]]  # by phase


def make(options: Namespace, progress: Callable[[float], None]) -> tuple[str, list[str]]:
    """The advice that the script's ``options`` ask for, and warnings. Raises `UserError`."""
    files = [options.expert_statistic_path]
    files += [options.decode_statistic_path] * (options.decode_statistic_path is not None)
    part = (options.iter_start, options.iter_stop)
    recorded = [registry.read_statistics(file, *part) for file in files]
    first = recorded[0].on(num_groups=options.num_groups).grouped()
    known = first.header
    histories = _histories(files, recorded)
    serving = Serving.of(options.hardware, options.dispatch, known.top_k)
    steps = options.steps_per_iteration or known.steps_per_record
    more = (options.gpus_per_node, known.num_groups)
    deployments = [
        deployment_of(first.num_experts, gpus, spare, *more)
        for gpus in dict.fromkeys(options.ep_size)
        for spare in SPARE_SLOTS
    ]
    trials: Trials = {phase: [] for phase in histories}
    with Sandbox(planner.TIMEOUT, tuple(files)) as sandbox:
        ask = partial(planner.ask, sandbox, options.program_path)
        study = Study(histories, serving, steps or 1, ask)
        for number, deployment in enumerate(deployments, 1):
            for phase, those in trials.items():
                those += study.trials(phase, deployment)
            progress(number / len(deployments))
    if options.plot is not None:
        draw(options.plot, trials)
    doubtful = dict.fromkeys(why for each in histories.values() for why in doubts(each))
    warnings = [*first.notes, *doubtful]
    if steps is None:
        warnings.append(
            "the recording does not tell how many engine steps an iteration sums up; taken as 1, "
            "so that moves weigh as if intervals were so short: give --steps_per_iteration"
        )
    return _text(options, first.iterations, study, trials), warnings


def _histories(files: list[Path], recorded: list[ExpertStatistics]) -> dict[str, History]:
    """The windows of each phase, of the layers that either uses; of one recording, the same."""
    first, last = recorded[0], recorded[-1]
    if first.loads.shape[1:] != last.loads.shape[1:]:
        raise UserError(
            f"{files[0]} and {files[-1]} are of two models: {first.loads.shape[1]} layers of "
            f"{first.num_experts} experts, and {last.loads.shape[1]} of {last.num_experts}"
        )
    live = np.any([each.loads.any(axis=(0, 2)) for each in recorded], axis=0)
    try:
        cut = [in_windows(each.loads[:, live]) for each in recorded]
    except UserError as error:
        raise UserError(f"{' or '.join(map(str, files))}: {error}") from error
    return dict(zip(PHASES, (cut[0], cut[-1]), strict=True))


def _text(options: Namespace, iterations: range, study: Study, trials: Trials) -> str:
    """Heading, tables, the recommendation, what is compared for it, and the command."""
    best = {phase: choose({phase: those})[phase] for phase, those in trials.items()}
    both = choose(trials)
    deployment = next(iter(both.values())).deployment
    parts = [
        _heading(options, iterations, study),
        *(f"{phase}:\n{table(those, best[phase])}" for phase, those in trials.items()),
        _reasons(both, best, trials),
        _rules(study, deployment),
        _phases(study, deployment),
        f"to make the file:\n  {_command(options, deployment)}",
    ]
    return "\n\n".join(parts)


def choose(trials: Trials) -> dict[str, Trial]:
    """The one choice for all phases of ``trials``, as it was tried in each.

    It has the fewest spare slots, then rebalancings, of those that are as good as the best in the
    mean over the phases of what is reached of each phase's fastest.
    """
    fastest = {phase: max(t.tokens_per_gpu for t in those) for phase, those in trials.items()}
    choices: dict[tuple, dict[str, Trial]] = defaultdict(dict)
    for phase, those in trials.items():
        for trial in those:
            choices[trial.deployment, trial.every][phase] = trial

    def reached(choice: dict[str, Trial]) -> float:
        return sum(t.tokens_per_gpu / fastest[phase] for phase, t in choice.items()) / len(choice)

    # A recording of another length allows other intervals.
    whole = [choice for choice in choices.values() if len(choice) == len(trials)]
    enough = max(map(reached, whole)) * (1 - AS_GOOD)
    fits = [choice for choice in whole if reached(choice) >= enough]
    return min(fits, key=lambda choice: next(iter(choice.values())).burden)


def _heading(options: Namespace, iterations: range, study: Study) -> str:
    phase, history = next(iter(study.histories.items()))
    windows, length = len(study.held_out[phase].seen), history.records.shape[1]
    steps = study.servings[phase].profiles[phase].steps_per_window
    judged = iterations[len(iterations) - windows * length :]
    return (
        f"planned with {options.program_path.name} on iterations up to {judged.start - 1}\n"
        f"judged on {spans([*judged])}: {windows} windows of {length} iterations, {steps} steps\n"
        f"tokens per second of the expert layers alone, on {' '.join(options.hardware)}, "
        f"dispatch {options.dispatch}"
    )


def table(trials: list[Trial], best: Trial) -> str:
    """A phase's table; the choice for that phase is marked."""
    head = "ranks spare GB/rank rebalance balanced kept gain tokens/s moved stall"
    rows = [["", *head.split()]]
    for t in trials:
        cells = (
            f"{t.deployment.num_gpus} {t.spare} {t.gigabytes:.1f} {t.steps if t.every else 'never'}"
            f" {t.balancedness:.4f} {t.worth.kept:.3f} {t.worth.gain:.3f} {t.tokens_per_gpu:.0f} "
            + (f"{t.moved:.0f} {t.stall:.3f}" if t.every else "- -")
        )
        rows.append(["*" if t is best else "", *cells.split()])
    return (
        f"{columns(rows)}\n"
        "  spare slots on each rank, steps from one rebalancing to the next, tokens/s a rank,\n"
        "  experts moved over all ranks and seconds of stall in each rebalancing"
    )


def _words(trial: Trial) -> str:
    slots = f"{trial.spare or 'no'} spare slot{'s' * (trial.spare != 1)} a rank"
    return f"{trial.deployment.num_gpus} ranks, {slots}, {_often(trial)}"


def _often(trial: Trial) -> str:
    return f"rebalanced every {trial.steps} steps" if trial.every else "never rebalanced"


def _reasons(both: dict[str, Trial], best: dict[str, Trial], trials: Trials) -> str:
    """The recommendation, and what speaks for it."""
    lines = [f"recommended: {_words(next(iter(both.values())))}"]
    for phase, trial in both.items():
        speed, gpus = trial.tokens_per_gpu, trial.deployment.num_gpus
        fastest = max(trials[phase], key=lambda t: t.tokens_per_gpu)
        plain = [t for t in trials[phase] if t.deployment.num_gpus == gpus and not t.spare]
        over = speed / max(t.tokens_per_gpu for t in plain) - 1
        # No loss may be a negative zero.
        lost = [
            f"{name.replace('_', ' ')} {round(part, 3) + 0.0:.1%}"
            for name, part in trial.worth.lost.items()
        ]
        lines.append(
            f"  {phase}: {trial.worth.gain:.2f} x without EPLB, {over:+.1%} over no spare "
            f"slots, {1 - speed / fastest.tokens_per_gpu:.1%} behind the fastest "
            f"({_words(fastest)}); lost to {', '.join(lost)}"
        )
    lines.append(
        f"  of all that reach {1 - AS_GOOD:.1%} of the best mean over the phases it has the fewest "
        "spare slots, then the fewest rebalancings"
    )
    lines += [f"  for {phase} alone: {_words(trial)}" for phase, trial in best.items()]
    return "\n".join(fill(line, 96, subsequent_indent="    ") for line in lines)


def _rules(study: Study, deployment: Deployment) -> str:
    first = next(iter(study.histories.values()))
    if first.windows.shape[2] == deployment.num_replicas:
        return "kept by dispatch: the same by every rule, since no expert has a replica to choose"
    rows = [["kept by dispatch:", *RULES]]
    for phase in study.histories:
        kept = [study.kept(phase, phase, deployment, rule) for rule in RULES]
        rows.append([f"  {phase}", *(f"{value:.3f}" for value in kept)])
    return f"{columns(rows)}\n  of the recommended spare slots, without rebalancing"


def _phases(study: Study, deployment: Deployment) -> str:
    """Whether prefill and decode need plans of their own."""
    if len({id(history) for history in study.histories.values()}) == 1:
        unsaid = "whether prefill and decode need different plans, one recording cannot say"
        return f"{unsaid};\ngive --decode_statistic_path"
    rows, worst = [["kept by a plan for:", *study.histories]], 0.0
    for served in study.histories:
        kept = {p: study.kept(p, served, deployment, study.rule) for p in study.histories}
        rows.append([f"  served {served}", *(f"{value:.3f}" for value in kept.values())])
        worst = max(worst, 1 - min(kept.values()) / kept[served])
    verdict = "need plans of their own" if worst > AS_GOOD else "can share a plan"
    costs = f"  prefill and decode {verdict}: the other's plan costs up to {worst:.1%}"
    return f"{columns(rows)}\n{costs}"


def _command(options: Namespace, deployment: Deployment) -> str:
    """The call of generate_eplb_config.py.

    It names all sizes: the recording may be of others, or show groups that the user denied.
    """
    is_default = options.program_path == project_file(planner.DEFAULT_PROGRAM)
    arguments = {
        "expert_statistic_path": options.expert_statistic_path,
        "ep_size": deployment.num_gpus,
        "num_slots": deployment.num_replicas,
        "iter_start": options.iter_start,
        "iter_stop": options.iter_stop,
        "num_nodes": deployment.num_nodes,
        "num_groups": deployment.num_groups,
        "program_path": None if is_default else options.program_path,
        "output_path": "moe_load_balancer.yaml",
    }
    given = {f"--{name}": str(value) for name, value in arguments.items() if value is not None}
    return shlex.join(["python", "generate_eplb_config.py", *sum(given.items(), ())])


def draw(path: Path, trials: Trials) -> None:
    """Tokens per second over memory, a panel a phase and a line an interval and EP size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(trials), 4.5), layout="constrained")
    figure.suptitle("What spare slots and rebalancing are worth, on held-out windows")
    panels = figure.subplots(1, len(trials), squeeze=False)[0]
    for axes, (phase, those) in zip(panels, trials.items(), strict=True):
        lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for t in those:
            name = f"{t.deployment.num_gpus} ranks, {_often(t)}"
            lines[name].append((t.gigabytes, t.tokens_per_gpu))
        for name, points in lines.items():
            axes.plot(*zip(*sorted(points)), marker="o", markersize=4, label=name)
        axes.set(title=phase, xlabel="GB of expert weights on each rank", ylabel="tokens/s a rank")
        axes.legend(fontsize="small")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150)

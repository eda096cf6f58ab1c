"""What a model or a person should improve in a program, in words and precise figures.

ShinkaEvolve rounds metrics to two digits in its prompts, so what matters is repeated here with
four. Text that comes from the program itself is shortened and stripped of control characters.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from eplb.evaluation.attribution import Attribution, attribute
from eplb.evaluation.measure import Evaluation, ProgramRun
from eplb.evaluation.scores import Figures, combined_scores, speed_score

# How many layers and windows are named, and lines of a traceback shown.
WORST = 3
LAST_LINES = 8

_ADVICE = {
    "forecast": (
        "The next window differs from the one seen. A program keeps its variables between calls: "
        "use several past windows, smooth or extrapolate them, and place for the loads to come."
    ),
    "packing": (
        "The same replicas packed again, heaviest first to the lightest GPU with room, would reach "
        "{repacked:.4f} on the window seen instead of {same_window:.4f}."
    ),
    "replication": (
        "Giving each spare replica to the expert with the most load per replica, and packing as "
        "above, would reach {replicated:.4f} on the window seen instead of {repacked:.4f}."
    ),
    "nodes": (
        "Keeping every group on one node costs the most: a placement free of nodes would reach "
        "{free:.4f} on the window seen instead of {replicated:.4f}."
    ),
}

_CONTRACT = (
    "A program defines rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus) "
    "and run_eplb with the same arguments, which calls it and returns (phy2log, log2phy, logcnt): "
    "int64 tensors of shapes [layers, num_replicas], [layers, experts, X] and [layers, experts]."
)

_WAYS_OUT = {
    "phy2log": "Every slot holds one expert id and every expert has at least one slot. ",
    "logcnt": "Count the replicas in phy2log: logcnt[layer, e] = (phy2log[layer] == e).sum(). ",
    "log2phy": "Derive log2phy from phy2log: the slots that hold the expert, then -1. ",
    "locality": "All replicas of a group's experts must lie in the slots of one node. ",
}


def printable(text: str, longest: int) -> str:
    """``text`` on one line without control characters, at most ``longest`` characters."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    line = " ".join(line.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def refusal_feedback(reason: str, traceback: list[str]) -> str:
    """Why a program was refused, the lines of it that led there, and the way out."""
    way_out = next((hint for part, hint in _WAYS_OUT.items() if f"{part}: " in reason), "")
    lines = [printable(line, 200) for line in traceback[-LAST_LINES:]]
    return "\n".join([f"Refused, score 0: {reason}", *lines, f"{way_out}{_CONTRACT}"])


def feedback(evaluation: Evaluation, figures: Figures, scoring: str) -> str:
    """What to improve in a program that was scored; the first run stands for all.

    figures, scoring: what its combined score was made of, and how
    """
    run = evaluation.runs[0]
    parts = attribute(run, evaluation.history, evaluation.settings.deployment)
    lines = [
        *_balance_lines(parts, evaluation.settings.require_locality),
        _worst_windows(run),
        _worst_layers(run),
        _speed_line(figures, scoring),
    ]
    stages = _stage_line(evaluation)
    return "\n".join([*lines, stages] if stages else lines)


def _balance_lines(parts: Attribution, locality_required: bool) -> list[str]:
    losses = parts.losses
    if not parts.node_local:
        losses.pop("nodes")
    lost = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    improvable = {n: loss for n, loss in losses.items() if n in _ADVICE}
    if locality_required:
        improvable.pop("nodes", None)
    largest = max(improvable, key=improvable.__getitem__)
    summary = (
        f"Balancedness over GPUs (1 is perfect): {parts.placed:.4f} on the next windows, "
        f"{parts.same_window:.4f} on the windows seen (oracle). Lost to {lost}."
    )
    lines = [summary]
    if improvable[largest] >= 0.0005:
        lines.append(f"Most to gain: {largest}. {_ADVICE[largest].format(**vars(parts))}")
    verdict = "ahead of it" if parts.placed > parts.no_forecast else "behind it"
    lines.append(
        f"A greedy placement without nodes or forecast scores {parts.no_forecast:.4f} on the next "
        f"windows; this program is {verdict} by {abs(parts.placed - parts.no_forecast):.4f}."
    )
    return lines


def _worst_windows(run: ProgramRun) -> str:
    scores = run.scores
    worst = np.argsort(scores.balancedness, kind="stable")[:WORST]
    text = ", ".join(
        f"{w}->{w + 1} {scores.balancedness[w]:.4f} (oracle {scores.same_window[w]:.4f})"
        for w in worst
    )
    return f"Worst windows: {text}."


def worst_layers(run: ProgramRun) -> list[tuple[int, float, float]]:
    """The layers that lose most: layer, max/mean GPU load, share of all time lost to imbalance."""
    loads = run.scores.gpu_loads
    excess = (loads.max(axis=2) - loads.mean(axis=2)).sum(axis=0)
    mean = loads.mean(axis=2).sum(axis=0)
    worst = np.argsort(-excess, kind="stable")[:WORST]
    total = excess.sum()
    return [
        (int(layer), float(1 + excess[layer] / mean[layer]), float(excess[layer] / total))
        for layer in worst
        if excess[layer] > 0
    ]


def _worst_layers(run: ProgramRun) -> str:
    worst = worst_layers(run)
    if not worst:
        return "No layer is out of balance."
    text = ", ".join(
        f"{layer} (hottest GPU {ratio:.4f} x the mean, {share:.1%} of the loss)"
        for layer, ratio, share in worst
    )
    return f"Worst layers: {text}."


def _speed_line(figures: Figures, scoring: str) -> str:
    def gain(**better: float) -> float:
        improved = combined_scores(replace(figures, **better))
        return improved[scoring] - combined_scores(figures)[scoring]

    seconds, seed = figures.seconds, figures.seed_seconds
    return (
        f"Time: {1e3 * seconds:.4g} ms a call, the seed {1e3 * seed:.4g} ms; speed_score "
        f"{speed_score(seconds, seed):.4f}. Twice as fast would add "
        f"{gain(seconds=seconds / 2):.4f} to the combined score; perfect balance would add "
        f"{gain(balanced_gpus=1.0, balanced_slots=1.0):.4f}."
    )


def _stage_line(evaluation: Evaluation) -> str | None:
    """Time per stage of a call, as the program itself accounts for it."""
    run = evaluation.runs[0]
    stages = sorted(run.stage_seconds.items(), key=lambda stage: -stage[1])
    text = ", ".join(f"{name} {1e3 * total / len(run.seconds):.4g} ms" for name, total in stages)
    return f"Stages of a call, by the program's own word: {text}." if text else None

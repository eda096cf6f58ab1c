"""What a model or a person should improve in a program, in words and precise figures.

ShinkaEvolve rounds metrics to two digits in its prompts, so what matters is repeated here with
four. Text that comes from the program itself is shortened and stripped of control characters.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from eplb.evaluation.attribution import Attribution, attribute
from eplb.evaluation.measure import Evaluation
from eplb.evaluation.scores import SCORINGS, Figures, PlacementScores

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
        "{repacked:.4f} on the window seen instead of "
        "{balancedness_oracle:.4f}."
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
    """What to improve in a program that was scored.

    figures, scoring: what its combined score was made of, and how
    """
    scores = evaluation.scores
    parts = attribute(scores)
    return "\n".join(
        [
            *_balance_lines(parts, evaluation.settings.require_locality),
            _worst_windows(scores),
            _worst_layers(scores),
            _worth_line(figures, scoring),
        ]
    )


def _balance_lines(parts: Attribution, locality_required: bool) -> list[str]:
    losses = parts.losses
    if not parts.node_local:
        losses.pop("nodes")
    lost = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    improvable = {n: loss for n, loss in losses.items() if n in _ADVICE}
    if locality_required:
        improvable.pop("nodes", None)
    largest = max(improvable, key=improvable.__getitem__)
    placed, oracle = parts.balancedness_score, parts.balancedness_oracle
    lines = [
        f"Balancedness over GPUs (1 is perfect): {placed:.4f} on the next windows, "
        f"{oracle:.4f} on the windows seen (oracle). Lost to {lost}."
    ]
    if improvable[largest] >= 0.0005:
        lines.append(f"Most to gain: {largest}. {_ADVICE[largest].format(**vars(parts))}")
    verdict = "ahead of it" if placed > parts.no_forecast else "behind it"
    lines.append(
        f"A greedy placement without nodes or forecast scores {parts.no_forecast:.4f} on the next "
        f"windows; this program is {verdict} by {abs(placed - parts.no_forecast):.4f}."
    )
    return lines


def _worst_windows(scores: PlacementScores) -> str:
    next_window, oracle = scores.balancedness_score, scores.balancedness_oracle
    # Windows without tokens have no figure and sort last.
    known = int(np.isfinite(next_window).sum())
    worst = np.argsort(next_window, kind="stable")[: min(WORST, known)]
    seen = [f"oracle {o:.4f}" if np.isfinite(o) else "saw no tokens" for o in oracle]
    text = ", ".join(f"{w}->{w + 1} {next_window[w]:.4f} ({seen[w]})" for w in worst)
    return f"Worst windows: {text}."


def worst_layers(scores: PlacementScores) -> list[tuple[int, float, float]]:
    """The layers that lose most: layer, max/mean GPU load, share of all time lost to imbalance."""
    loads = scores.gpu_loads
    excess = (loads.max(axis=2) - loads.mean(axis=2)).sum(axis=0)
    mean = loads.mean(axis=2).sum(axis=0)
    worst = np.argsort(-excess, kind="stable")[:WORST]
    total = excess.sum()
    return [
        (int(layer), float(1 + excess[layer] / mean[layer]), float(excess[layer] / total))
        for layer in worst
        if excess[layer] > 0
    ]


def _worst_layers(scores: PlacementScores) -> str:
    worst = worst_layers(scores)
    if not worst:
        return "No layer is out of balance."
    text = ", ".join(
        f"{layer} (hottest GPU {ratio:.4f} x the mean, {share:.1%} of the loss)"
        for layer, ratio, share in worst
    )
    return f"Worst layers: {text}."


def _worth_line(figures: Figures, scoring: str) -> str:
    """What speed and balance are worth from here on, by the scoring that the program is under."""

    def worth(**better: float) -> float:
        formula = SCORINGS[scoring].formula
        return formula(replace(figures, **better)) - formula(figures)

    def balanced(gain: float) -> float:
        names = ("balancedness_score", "balancedness_expert")
        return worth(**{name: min(1.0, getattr(figures, name) + gain) for name in names})

    return (
        f"Time: {figures.call_ms:.4g} ms a call, the seed {figures.seed_call_ms:.4g} ms; "
        f"removed {figures.removed:.4f} of the imbalance, speed_score {figures.speed_score:.4f}. "
        f"In the combined score, twice as fast is worth {worth(call_ms=figures.call_ms / 2):.4f} "
        f"now, one hundredth more balancedness {balanced(0.01):.4f}, and perfect balance "
        f"{balanced(1.0):.4f}."
    )

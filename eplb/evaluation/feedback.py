"""What a model or a person should improve in a program, in words and precise figures.

ShinkaEvolve rounds metrics to two digits in its prompts, so what matters is repeated here with
four. Text that comes from the program itself is shortened and stripped of control characters. Not
covered: what a failure may tell at all (`eplb.sandbox.failures`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eplb.common import printable
from eplb.evaluation.attribution import Attribution, attribute
from eplb.evaluation.measure import Evaluation
from eplb.evaluation.scores import Figures, PlacementScores

# How many layers and windows are named, and lines of a traceback shown.
WORST = 3
LAST_LINES = 8

_ADVICE = {
    "forecast": "The next window differs from the one seen. A program keeps its variables between "
    "calls: use several past windows, smooth or extrapolate them, and place for the loads to come.",
    "packing": "The same replicas packed again, heaviest first to the lightest GPU with room, "
    "would reach {improved[packing]:.4f} on the window seen instead of {improved[forecast]:.4f}.",
    "replication": "Giving each spare replica to the expert with the most load per replica, and "
    "packing as above, would reach {improved[replication]:.4f} on the window seen instead of "
    "{improved[packing]:.4f}.",
    "nodes": "Keeping every group on one node costs the most: a placement free of nodes would "
    "reach {improved[nodes]:.4f} on the window seen instead of {improved[replication]:.4f}.",
    "speed": "Ten times as fast would bring it: large tensors over all layers at once instead of "
    "loops over experts, and few calls.",
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


def refusal_feedback(reason: str, traceback: list[str]) -> str:
    """Why a program was refused, the lines of it that led there, and the way out."""
    way_out = next((hint for part, hint in _WAYS_OUT.items() if f"{part}: " in reason), "")
    lines = [printable(line, 200) for line in traceback[-LAST_LINES:]]
    return "\n".join([f"Refused, score 0: {reason}", *lines, f"{way_out}{_CONTRACT}"])


@dataclass(frozen=True)
class Gains:
    """What each part of a program would gain if it lost nothing, in the combined score.

    parts: what the balance lost to, see `attribute`
    worth: by part, and of being ten times as fast under "speed"
    """

    parts: Attribution
    worth: dict[str, float]

    @classmethod
    def of(cls, evaluation: Evaluation) -> Gains:
        figures, parts = evaluation.figures, attribute(evaluation.scores)
        losses = {name: loss for name, loss in parts.losses.items() if name in _ADVICE}
        if evaluation.settings.criteria.require_locality:
            losses.pop("nodes")
        better = {name: figures.with_balance(loss) for name, loss in losses.items()}
        better["speed"] = figures.with_speed(10)
        return cls(parts, {name: evaluation.worth_of(figures) for name, figures in better.items()})

    @property
    def most(self) -> tuple[str, float] | None:
        """The part with most to gain, and that; None where it is next to nothing."""
        part = max(self.worth, key=self.worth.__getitem__)
        return (part, self.worth[part]) if self.worth[part] >= 0.0005 else None


def feedback(evaluation: Evaluation, gains: Gains) -> str:
    """What to improve in a program that was scored."""
    lines = [
        *_balance_lines(gains),
        _windows_line(evaluation.scores),
        _layers_line(evaluation.scores),
        _throughput_line(evaluation.figures),
        _worth_line(evaluation),
    ]
    return "\n".join(lines)


def _balance_lines(gains: Gains) -> list[str]:
    parts, placed = gains.parts, gains.parts.placed
    losses = {n: loss for n, loss in parts.losses.items() if n != "nodes" or parts.node_local}
    lines = [
        f"Balancedness over GPUs (1 is perfect): {placed:.4f} on the next windows, "
        f"{parts.improved['forecast']:.4f} on the windows seen (oracle). Lost to {_listed(losses)}."
    ]
    if gains.most is not None:
        part, worth = gains.most
        advice = _ADVICE[part].format(**vars(parts))
        lines.append(f"Most to gain: {part}, {worth:.4f} of the combined score. {advice}")
    ahead = placed - parts.no_forecast
    lines.append(
        f"A greedy placement without nodes or forecast scores {parts.no_forecast:.4f} on the next "
        f"windows; this program is {'ahead of' if ahead > 0 else 'behind'} it by {abs(ahead):.4f}."
    )
    return lines


def _listed(losses: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {loss:.4f}" for name, loss in losses.items())


def _windows_line(scores: PlacementScores) -> str:
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
    mean = loads.mean(axis=2).sum(axis=0)
    excess = loads.max(axis=2).sum(axis=0) - mean
    worst = [layer for layer in np.argsort(-excess, kind="stable")[:WORST] if excess[layer] > 0]
    total = excess.sum()
    return [
        (int(layer), float(1 + excess[layer] / mean[layer]), float(excess[layer] / total))
        for layer in worst
    ]


def _layers_line(scores: PlacementScores) -> str:
    text = ", ".join(
        f"{layer} (hottest GPU {ratio:.4f} x the mean, {share:.1%} of the loss)"
        for layer, ratio, share in worst_layers(scores)
    )
    return f"Worst layers: {text}." if text else "No layer is out of balance."


def _throughput_line(figures: Figures) -> str:
    """What is kept of the ideal tokens per second in each phase, and what takes the rest."""
    phases = (
        f"{phase} keeps {worth.kept:.4f} of the ideal tokens per second "
        f"({worth.gain:.4f} x without EPLB), lost to {_listed(worth.lost)}"
        for phase, worth in figures.throughput.items()
    )
    return f"Throughput: {'; '.join(phases)}."


def _worth_line(evaluation: Evaluation) -> str:
    """What speed and balance are worth from here on, by the scoring that the program is under."""
    figures = evaluation.figures
    better = (figures.with_speed(2), figures.with_balance(0.01), figures.with_balance(1.0))
    faster, hundredth, perfect = map(evaluation.worth_of, better)
    return (
        f"Time: {figures.call_ms:.4g} ms a call, the seed {figures.seed_call_ms:.4g} ms; "
        f"removed {figures.removed:.4f} of the imbalance, speed_score {figures.speed_score:.4f}. "
        f"In the combined score, twice as fast is worth {faster:.4f} now, one hundredth more "
        f"balancedness {hundredth:.4f}, and perfect balance {perfect:.4f}."
    )

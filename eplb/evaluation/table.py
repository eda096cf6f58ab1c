"""The results of an evaluation on a screen, for a person: at most 80 columns, but for paths.

Not covered: the files that it leaves (`eplb.evaluation.results`), whose content it shows.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from eplb.throughput.worth import REASONS


def table(metrics: dict[str, Any], results_dir: Path, next_command: str) -> str:
    """The results on a screen, for a person; it ends with what to do next."""
    private = metrics["private"]
    d = private["deployment"]
    rows = [
        ("program", _near(private["program"]), ""),
        ("trace", _near(private["trace"]), ""),
        (
            "deployment",
            f"{_many(d['num_replicas'], 'slot')} on {_many(d['num_gpus'], 'GPU')} of "
            f"{_many(d['num_nodes'], 'node')}",
            "",
        ),
        (
            "model",
            f"{_many(d['layers'], 'layer')} of {_many(d['experts'], 'expert')} in "
            f"{_many(d['num_groups'], 'group')}",
            "",
        ),
    ]
    if metrics["all_validation_errors"]:
        reason = textwrap.indent(textwrap.fill(metrics["all_validation_errors"][0], 78), "  ")
        last = [("what to do", f"text_feedback in {results_dir / 'metrics.json'}", "")]
        return "\n".join([*_columns(rows), "REFUSED, score 0", reason, *_columns(last)])
    most = private["most_to_gain"]
    gain = f"{most[0]}, {most[1]:.4f} of the combined score" if most else "next to nothing"
    last = [
        ("most to gain", gain, ""),
        ("results", f"{results_dir / 'metrics.json'}", ""),
    ]
    lines = [*_columns(rows), *_columns(_figures(metrics)), *_columns(last)]
    return "\n".join([*lines, "next:", f"  {next_command}"])


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _near(path: str) -> str:
    """``path`` as seen from the working directory, where it lies in it."""
    try:
        return str(Path(path).absolute().relative_to(Path.cwd()))
    except ValueError:
        return path


def _columns(rows: list[tuple[str, str, str]]) -> list[str]:
    return [f"{name:<24}{value:<10}  {note}".rstrip() for name, value, note in rows]


def _figures(metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The rows of a program that was scored: name, value, note."""
    public, private = metrics["public"], metrics["private"]
    low, high = private["call_ms_quartiles"]
    ratio = public["seed_call_ms"] / public["call_ms"]
    layers = ", ".join(map(str, private["worst_layers"])) or "none"
    windows = np.array(private["by_window"]["balancedness_score"], dtype=float)
    worst = int(np.nanargmin(windows))

    def row(name: str, metric: str, note: str = "") -> tuple[str, str, str]:
        return name, f"{public[metric]:.4f}", note

    return [
        (f"combined score ({private['scoring']})", f"{metrics['combined_score']:.4f}", ""),
        row("balancedness over GPUs", "balancedness_score", "1 is perfect"),
        row("  window seen (oracle)", "balancedness_oracle"),
        row("  record by record", "balancedness_step"),
        row("  over slots", "balancedness_expert"),
        row("  experts in order", "balancedness_in_order", "no balancer"),
        row("imbalance removed", "removed", "of that of experts in order"),
        row("speed score", "speed_score", f"{ratio:.3g} x as fast as the seed"),
        ("time per call", f"{public['call_ms']:.4g} ms", f"half of the calls {low:.4g}-{high:.4g}"),
        ("migrated experts", f"{public['migrated_experts']:.1f}", "per layer and window"),
        row("node locality", "node_locality", f"locality {private['locality']}"),
        *_throughput(public, private),
        ("worst window", f"{worst}->{worst + 1}", f"balancedness {windows[worst]:.4f}"),
        ("worst layers", layers, ""),
        ("isolation", private["isolation"], ""),
        *_fresh(private.get("fresh")),
    ]


def _throughput(public: dict[str, Any], private: dict[str, Any]) -> list[tuple[str, str, str]]:
    """A column a phase: what is kept of the ideal tokens per second, and what takes the rest."""
    phases = private["throughput"]
    lost = {reason: [phases[phase]["lost"][reason] for phase in phases] for reason in REASONS}

    def row(name: str, values: list[float], note: str = "") -> tuple[str, str, str]:
        first, second = (f"{value:.4f}" for value in values)
        return name, first, f"{second:<10}  {note}"

    return [
        ("tokens per second", *phases),
        row("  kept", [public[f"kept_{phase}"] for phase in phases], "of the ideal"),
        row("  over no EPLB", [public[f"gain_{phase}"] for phase in phases], "times"),
        *(row(f"  lost to {reason.replace('_', ' ')}", shares) for reason, shares in lost.items()),
        ("  served", f"on {private['hardware']}, dispatch {private['dispatch']}", ""),
    ]


def _fresh(fresh: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """A line a trace that was drawn for this evaluation, and the one that sums them up."""
    if fresh is None:
        return []
    rows = [
        (f"  {one['trace']}", f"{one['score']:.4f}", one["refusal"] or f"seed {one['seed']}")
        for one in fresh["scores"]
    ]
    gap = f"{abs(fresh['gap']):.4f} {'below' if fresh['gap'] >= 0 else 'above'} the known trace"
    return [("on fresh traces", f"{fresh['mean']:.4f}", gap), *rows]

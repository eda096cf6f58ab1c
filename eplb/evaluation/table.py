"""The results of an evaluation on a screen, for a person: at most 80 columns, but for paths.

Not covered: the files that it leaves (`eplb.evaluation.results`), whose content it shows.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any

from eplb.throughput.worth import REASONS

# Name, value, note.
Row = tuple[str, str, str]


def table(metrics: dict[str, Any], results_dir: Path, next_command: str) -> str:
    """The results, and what to do next."""
    private, file = metrics["private"], results_dir / "metrics.json"
    size = {name: f"{n} {{}}{'s' * (n != 1)}" for name, n in private["deployment"].items()}
    slots, gpus = size["num_replicas"].format("slot"), size["num_gpus"].format("GPU")
    nodes, groups = size["num_nodes"].format("node"), size["num_groups"].format("group")
    layers, experts = size["layers"].format("layer"), size["experts"].format("expert")
    rows = [
        ("program", _near(private["program"]), ""),
        ("trace", _near(private["trace"]), ""),
        ("deployment", f"{slots} on {gpus} of {nodes}", ""),
        ("model", f"{layers} of {experts} in {groups}", ""),
    ]
    if metrics["all_validation_errors"]:
        reason = textwrap.fill(metrics["all_validation_errors"][0], 78)
        lines = [*_lines(rows), "REFUSED, score 0", textwrap.indent(reason, "  ")]
        return "\n".join([*lines, *_lines([("what to do", f"text_feedback in {file}", "")])])
    most = private["most_to_gain"]
    gain = f"{most[0]}, {most[1]:.4f} of the combined score" if most else "next to nothing"
    rows += [*_figures(metrics), ("most to gain", gain, ""), ("results", str(file), "")]
    return "\n".join([*_lines(rows), "next:", f"  {_shown(next_command)}"])


def next_command(args: argparse.Namespace, default: dict[str, Any]) -> str:
    """What to type after a score: see it confirmed, and then let it be improved.

    Carries everything that the program was scored with and that is not the ``default``.
    """
    if args.fresh is None:
        return f"python {shlex.join(sys.argv)} --fresh 3"
    start = args.program_path.absolute()
    command = ["python", "run_evo.py", f"evo_config.init_program_path={start}"]
    ours = ("program_path", "results_dir", "fresh", "plots", "json")
    for name, value in vars(args).items():
        if name not in ours and value != default[name]:
            known = name in ("trace", "locality", "scoring")
            setting = name if known else f"+distributed_job_config.extra_cmd_args.{name}"
            value = value.absolute() if isinstance(value, Path) else value
            command.append(f"{setting}={value}")
    return shlex.join(command)


def _near(path: str) -> str:
    """``path`` as seen from the working directory, where it lies in it."""
    whole = Path(path).absolute()
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else path


def _lines(rows: list[Row]) -> list[str]:
    return [_shown(f"{name:<24}{value:<10}  {note}").rstrip() for name, value, note in rows]


def _shown(line: str) -> str:
    """``line`` as any screen can show it: the name of a file may hold whatever bytes it likes."""
    return "".join(c if c.isprintable() else "?" for c in line)


def _figures(metrics: dict[str, Any]) -> list[Row]:
    """The rows of a program that was scored."""
    public, private = metrics["public"], metrics["private"]
    low, high = private["call_ms_quartiles"]
    ratio = public["seed_call_ms"] / public["call_ms"]
    known = [
        (score, window)
        for window, score in enumerate(private["by_window"]["balancedness_score"])
        if score is not None
    ]
    score, worst = min(known)

    def row(name: str, metric: str, note: str = "") -> Row:
        return name, f"{public[metric]:.4f}", note

    return [
        ("combined score", f"{metrics['combined_score']:.4f}", f"scoring {private['scoring']}"),
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
        ("worst window", f"{worst}->{worst + 1}", f"balancedness {score:.4f}"),
        ("worst layers", ", ".join(map(str, private["worst_layers"])) or "none", ""),
        ("isolation", private["isolation"], ""),
        *_fresh(private.get("fresh")),
    ]


def _throughput(public: dict[str, Any], private: dict[str, Any]) -> list[Row]:
    """A column a phase: what is kept of the ideal tokens per second, and what takes the rest."""
    phases = private["throughput"]

    def row(name: str, values: list[float], note: str = "") -> Row:
        first, second = (f"{value:.4f}" for value in values)
        return name, first, f"{second:<10}  {note}"

    return [
        ("tokens per second", *phases),
        row("  kept", [public[f"kept_{phase}"] for phase in phases], "of the ideal"),
        row("  over no EPLB", [public[f"gain_{phase}"] for phase in phases], "times"),
        *(
            row(f"  lost to {why.replace('_', ' ')}", [of["lost"][why] for of in phases.values()])
            for why in REASONS
        ),
        ("  served", f"on {private['hardware']}, dispatch {private['dispatch']}", ""),
    ]


def _fresh(fresh: dict[str, Any] | None) -> list[Row]:
    """A line a trace that was drawn for this evaluation, after the one that sums them up."""
    if fresh is None:
        return []
    gap = f"{abs(fresh['gap']):.4f} {'below' if fresh['gap'] >= 0 else 'above'} the known trace"
    return [
        ("on fresh traces", f"{fresh['mean']:.4f}", gap),
        *(
            (f"  {one['trace']}", f"{one['score']:.4f}", one["refusal"] or f"seed {one['seed']}")
            for one in fresh["scores"]
        ),
    ]

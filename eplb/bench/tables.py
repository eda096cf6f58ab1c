"""The leaderboard's tables, in Markdown.

Covered: one table a scenario with every figure, and one table a figure with every scenario.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from eplb.placement import Deployment
from eplb.throughput.profile import DEFAULT
from eplb.trace import Trace


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


@dataclass(frozen=True)
class Row:
    """What one program does in one scenario, means over the windows.

    balancedness, lp: over GPUs, on the window that followed, under even and under lp dispatch
    kept: by phase, the share of the ideal tokens per second, under even dispatch
    gap: hottest GPU over the lower bound, minus one, on the window that followed
    seen_gap: the same on the window seen, which only replication and packing can lose
    ms, times_seed: time of one call, and the seed's time over it
    moved: share of the slots whose GPU had to fetch the expert
    node_local: share of (layer, group) pairs that live on one node
    """

    program: str
    balancedness: float
    lp: float
    kept: dict[str, float]
    gap: float
    seen_gap: float
    ms: float
    times_seed: float
    moved: float
    node_local: float


@dataclass(frozen=True)
class Refusal:
    """A program that gave no valid answer in a scenario, and why."""

    program: str
    reason: str


def table(scenario: Scenario, rows: list[Row | Refusal]) -> str:
    """One scenario in Markdown."""
    lines = [
        f"**{scenario.name}**",
        "",
        "| program | balancedness | under lp | kept, prefill | kept, decode | over the bound "
        "| on the window seen | ms | x seed's speed | slots moved | node-local |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if isinstance(row, Refusal):
            reason = textwrap.shorten(row.reason, 160).replace("|", "\\|")
            lines.append(f"| {row.program} | refused: {reason} | | | | | | | | | |")
            continue
        lines.append(
            f"| {row.program} | {row.balancedness:.4f} | {row.lp:.4f} | {row.kept['prefill']:.4f} "
            f"| {row.kept['decode']:.4f} | +{row.gap:.1%} | +{row.seen_gap:.1%} "
            f"| {row.ms:.3g} | {row.times_seed:.3g} | {row.moved:.0%} | {row.node_local:.0%} |"
        )
    return "\n".join(lines) + "\n"


# Of the tables over all scenarios: what each shows, by the name that stands above it.
SUMMARIES = {
    "Balancedness": lambda row: row.balancedness,
    "Balancedness under lp": lambda row: row.lp,
    "Kept, prefill": lambda row: row.kept["prefill"],
    "Kept, decode": lambda row: row.kept["decode"],
}


def summaries(results: list[tuple[Scenario, list[Row | Refusal]]]) -> str:
    """Tables of one figure each, a row a program and a column a scenario, in Markdown."""
    names = [scenario.name for scenario, _ in results]
    tables = []
    for title, figure in SUMMARIES.items():
        lines = [
            f"**{title}**",
            "",
            f"| program | {' | '.join(names)} |",
            "|---" * len(names) + "|---|",
        ]
        for same in zip(*(rows for _, rows in results), strict=True):
            cells = [f"{figure(row):.4f}" if isinstance(row, Row) else "refused" for row in same]
            lines.append(f"| {same[0].program} | {' | '.join(cells)} |")
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)

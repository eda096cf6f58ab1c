"""The calibration of the synthetic trace: published figures beside what a trace really shows.

Targets are figures published for the public DeepSeek-V3/R1 trace (1200 steps, 12 windows of 100),
figures measured on recordings of DeepSeek-V3/R1 loads, and TensorRT-LLM's published imbalance
ratios for DeepSeek-R1 on 32 ranks. All are for 58 layers of 256 experts; balancedness is for 288
slots, 8 groups, 4 nodes and 32 GPUs, each window's placement judged on the next window
(transition i is from window i to i + 1). Not covered: other models, of which nothing is published.

A row is within bounds when every value it shows lies in the target's range, widened by 0.03 for
correlations and balancedness and by 10 % of the limits otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from eplb.bench import trace_figures as figures
from eplb.common import DONE, FAILED, ArgumentParser, UserError, exit_on_user_error
from eplb.loads import balancedness, slot_loads
from eplb.placement import Deployment
from eplb.trace import Trace, read_trace
from eplb.workload_model import PRESETS, generate

BY_NODE = Deployment(num_replicas=288, num_groups=8, num_nodes=4, num_gpus=32)
ANYWHERE = replace(BY_NODE, num_groups=1, num_nodes=1)
LAYERS, EXPERTS, WINDOWS = 58, 256, 12
REGIME_WINDOW = 9


@dataclass(frozen=True)
class Row:
    """One figure: the ``target`` (low, high), what was ``measured``, and what it is.

    ratio: a correlation or balancedness, which may miss by 0.03 instead of 10 %
    """

    name: str
    target: tuple[float, float]
    measured: np.ndarray
    ratio: bool = False

    @property
    def within(self) -> bool:
        low, high = self.target
        below, above = (0.03, 0.03) if self.ratio else (0.1 * low, 0.1 * high)
        return bool(self.measured.min() >= low - below and self.measured.max() <= high + above)

    def __str__(self) -> str:
        target = _span(*self.target)
        measured = _span(self.measured.min(), self.measured.max())
        verdict = "within" if self.within else "OUT OF BOUNDS"
        return f"{self.name:<58} {target:>17} {measured:>17}  {verdict}"


def _span(low: float, high: float) -> str:
    ends = [f"{value:.4g}" if abs(value) < 10 else f"{value:.1f}" for value in (low, high)]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _row(name: str, target: float | tuple[float, float], measured, **kwargs) -> Row:
    span = target if isinstance(target, tuple) else (target, target)
    return Row(name, span, np.atleast_1d(measured), **kwargs)


def calibration(trace: Trace) -> list[Row]:
    """All rows for ``trace``; raises `UserError` where its shape is not the calibrated one."""
    interval = trace.interval()
    loads = trace.windows().astype(np.float64)
    if loads.shape != (WINDOWS, LAYERS, EXPERTS):
        shape = " x ".join(map(str, loads.shape))
        raise UserError(
            f"the trace has {shape} windows x layers x experts; the published figures are for "
            f"{WINDOWS} x {LAYERS} x {EXPERTS}"
        )
    records = trace.loads[: WINDOWS * interval].reshape(WINDOWS, interval, LAYERS, EXPERTS)
    return [
        *_balancedness_rows(loads),
        *_correlation_rows(loads, records),
        *_skew_rows(loads),
        *_sorted_rows(loads),
        *_rank_rows(loads, records),
        *_drift_rows(loads),
    ]


def _balancedness_rows(loads: np.ndarray) -> Iterator[Row]:
    anywhere = figures.place(loads, ANYWHERE)
    by_node = figures.place(loads, BY_NODE)
    slots = figures.predicted_balancedness(loads, by_node)
    for transition, target in enumerate((0.2107, 0.3398, 0.3672, 0.3527, 0.2850)):
        name = f"hierarchical, over slots: transition {transition}"
        yield _row(name, target, slots[transition], ratio=True)
    yield _row("  transitions 0-4, mean", 0.3111, slots[:5].mean(), ratio=True)
    yield _row("  all 11, mean", 0.25, slots.mean(), ratio=True)
    free = figures.predicted_balancedness(loads, anywhere)
    yield _row(
        "global greedy, over slots: transitions 0-4, mean", 0.3568, free[:5].mean(), ratio=True
    )
    yield _row("  all 11, mean", 0.2855, free.mean(), ratio=True)
    over = slots[:5].mean() / free[:5].mean()
    yield _row("hierarchical over global, over slots: transitions 0-4", 0.872, over, ratio=True)
    gpus = figures.predicted_balancedness(loads, anywhere, BY_NODE.num_gpus)
    yield _row("global greedy, packed, over GPUs: transition 0", 0.655, gpus[0], ratio=True)
    yield _row("  transitions 1-7, mean", 0.835, gpus[1:8].mean(), ratio=True)
    yield _row("  transition 8 (the regime change)", 0.44, gpus[8], ratio=True)
    yield _row("  transition 9", 0.69, gpus[9], ratio=True)
    yield _row("  transition 10", 0.68, gpus[10], ratio=True)
    yield _row("  all 11, mean", 0.755, gpus.mean(), ratio=True)


def _correlation_rows(loads: np.ndarray, records: np.ndarray) -> Iterator[Row]:
    pairs = figures.correlation(loads[:-1], loads[1:])
    yield _row("correlation of consecutive windows: transition 0", 0.7, pairs[0], ratio=True)
    yield _row("  transitions 1-7, each", (0.95, 0.98), pairs[1:8], ratio=True)
    yield _row("  transition 8", (0.1, 0.3), pairs[8], ratio=True)
    yield _row("  transitions 9 and 10", (0.7, 0.8), pairs[9:], ratio=True)
    first, second = np.array_split(records, 2, axis=1)
    halves = figures.correlation(first.sum(axis=1), second.sum(axis=1))
    yield _row("correlation of close workloads: halves of a window", 0.99, halves, ratio=True)
    far = figures.correlation(loads[1], loads[REGIME_WINDOW - 1])
    yield _row("correlation of far workloads: windows 1 and 8", (0.55, 0.91), far, ratio=True)


def _skew_rows(loads: np.ndarray) -> Iterator[Row]:
    peak = 1 + figures.imbalance(loads)
    yield _row("max/mean per layer, mean of each window", (5.6, 8.1), peak.mean(axis=1))
    yield _row("  smallest of all layers and windows", 2.8, peak.min())
    yield _row("  largest", 10.3, peak.max())
    variation = figures.variation(loads)
    yield _row(
        "coefficient of variation, mean of each window", (0.74, 1.02), variation.mean(axis=1)
    )
    low, high = np.percentile(variation, [5, 95])
    yield _row("  5th percentile over layers", 0.52, low)
    yield _row("  95th percentile", 1.2, high)
    yield _row("Gini, mean of each window", (0.32, 0.44), figures.gini(loads).mean(axis=1))
    hottest = figures.hottest_share(loads).mean(axis=1)
    yield _row("share of the hottest 5 %, mean of each window", (0.17, 0.22), hottest)
    log = np.log(np.maximum(loads, 1)).std(axis=2)
    yield _row("deviation of log load, mean of each window", (0.58, 0.86), log.mean(axis=1))
    yield _row("Hill exponent of the hottest 10 %", (2.4, 2.7), figures.hill(loads).mean())


def _sorted_rows(loads: np.ndarray) -> Iterator[Row]:
    before = figures.sorted_relative(loads[:REGIME_WINDOW]).mean(axis=(0, 1))
    targets = zip(
        (1, 2, 4, 8, 16, 32, 64, 128, 256), (5.56, 4.86, 4.12, 3.25, 2.31, 1.63, 1.14, 0.78, 0.18)
    )
    for rank, target in targets:
        name = (
            "sorted load / mean before the regime change: rank 1" if rank == 1 else f"  rank {rank}"
        )
        yield _row(name, target, before[rank - 1])


def _rank_rows(loads: np.ndarray, records: np.ndarray) -> Iterator[Row]:
    groups = 1 + figures.unit_imbalance(loads, BY_NODE.num_groups).mean(axis=1)
    yield _row("groups of 32 experts, max/mean, mean of each window", (1.66, 2.07), groups)
    ranks = np.array([figures.unit_imbalance(one, BY_NODE.num_gpus) for one in records])
    yield _row("(max-mean)/mean of 32 ranks by record, unbalanced", 1.564, ranks.mean())
    yield _row("  single layers", (0.46, 2.46), ranks.mean(axis=(0, 1)))
    # A deployment records its own workload: placed by the first half of a window, judged on the
    # records of the second.
    first, second = np.array_split(records, 2, axis=1)
    placements = figures.place(first.sum(axis=1, dtype=np.float64), ANYWHERE)
    balanced = [
        figures.imbalance(figures.gpu_loads(load, placement, BY_NODE.num_gpus)).mean()
        for placement, load in zip(placements, second)
    ]
    yield _row("  balanced with 288 slots, by the window's first half", 0.115, np.mean(balanced))


def _drift_rows(loads: np.ndarray) -> Iterator[Row]:
    calm = loads[1:REGIME_WINDOW]
    yield _row("drift within a regime: variance / Poisson", (9, 400), figures.over_poisson(calm))
    ratio = figures.hot_log_ratio(calm)
    yield _row("  deviation of log ratio, hottest 5 %", (0.1, 0.7), ratio)


def report(trace: Trace) -> tuple[str, bool]:
    """The table as text, and whether every row is within bounds."""
    rows = calibration(trace)
    missed = sum(not row.within for row in rows)
    lines = [f"{'figure':<58} {'target':>17} {'this trace':>17}", *map(str, rows), ""]
    lines.append(_note_on_groups(trace.windows().astype(np.float64)))
    lines.append(f"{len(rows) - missed} of {len(rows)} rows within bounds, {missed} out")
    return "\n".join(lines), missed == 0


def _note_on_groups(loads: np.ndarray) -> str:
    """Why two rows that seem to contradict each other can both hold."""
    by_node, anywhere = (
        np.mean(
            [
                balancedness(slot_loads(load, placement))
                for load, placement in zip(loads, figures.place(loads, deployment))
            ]
        )
        for deployment in (BY_NODE, ANYWHERE)
    )
    return (
        "Every row is judged, none gives way to another. Groups as uneven as those recorded do\n"
        "not contradict a ratio of 0.872 between hierarchical and global: that is for placements\n"
        "judged on the next window. Judged on the window that they were made from, the ratio of\n"
        f"this trace is {by_node / anywhere:.3f}."
    )


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m eplb.bench.calibration", description=__doc__)
    parser.add_argument("--trace", metavar="FILE", help="default: the one of --preset")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="deepseek-v3")
    parser.add_argument("--seed", type=int, help="of the random numbers (default: the preset's)")
    args = parser.parse_args(arguments)
    if args.trace:
        trace = read_trace(args.trace)
    else:
        model = PRESETS[args.preset]
        trace = generate(model if args.seed is None else replace(model, seed=args.seed))
    text, good = report(trace)
    print(text)
    return DONE if good else FAILED


if __name__ == "__main__":
    exit_on_user_error(main)

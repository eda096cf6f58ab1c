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

from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from eplb.common import DONE, FAILED, ArgumentParser, UserError, exit_on_user_error, project_file
from eplb.loads import balancedness, gpu_loads, slot_loads
from eplb.placement import Deployment, ExpertPlacement
from eplb.reference import place_by_node
from eplb.trace import Trace, read_trace
from eplb.workload_model import PRESETS, generate

BY_NODE = Deployment(num_replicas=288, num_groups=8, num_nodes=4, num_gpus=32)
ANYWHERE = replace(BY_NODE, num_groups=1, num_nodes=1)
SHAPE = (12, 58, 256)
REGIME_WINDOW = 9
SORTED = {1: 5.56, 2: 4.86, 4: 4.12, 8: 3.25, 16: 2.31, 32: 1.63, 64: 1.14, 128: 0.78, 256: 0.18}


@dataclass(frozen=True)
class Row:
    """One figure: its ``target``, one or (low, high), what was ``measured``, and what it is.

    ratio: a correlation or balancedness, which may miss by 0.03 instead of 10 %
    """

    name: str
    target: float | tuple[float, float]
    measured: np.ndarray | float
    ratio: bool = False

    @property
    def within(self) -> bool:
        low, high = np.min(self.target), np.max(self.target)
        below, above = (0.03, 0.03) if self.ratio else (0.1 * low, 0.1 * high)
        return bool(low - below <= np.min(self.measured) <= np.max(self.measured) <= high + above)

    def __str__(self) -> str:
        verdict = "within" if self.within else "OUT"
        return f"{self.name:<42} {_span(self.target):>12} {_span(self.measured):>16} {verdict}"


def _span(values: np.ndarray | float | tuple[float, float]) -> str:
    """The lowest and the highest of ``values``, or one of them where they look the same."""
    ends = (np.min(values), np.max(values))
    return " to ".join(dict.fromkeys(f"{end:.4g}" if end < 10 else f"{end:.1f}" for end in ends))


# Figures of float64 ``loads`` [windows, layers, experts], tokens per expert and window.


def place(loads: np.ndarray, deployment: Deployment) -> list[ExpertPlacement]:
    """The placement that DeepSeek's policy derives from each window."""
    windows, layers, experts = loads.shape
    phy2log = place_by_node(loads.reshape(-1, experts), deployment).reshape(windows, layers, -1)
    return [ExpertPlacement.from_phy2log(one, experts) for one in phy2log]


def over_slots(loads: np.ndarray, seen: np.ndarray, deployment: Deployment) -> np.ndarray:
    """[windows] balancedness over slots of ``loads``, each window placed after one of ``seen``."""
    pairs = zip(loads, place(seen, deployment))
    return np.array([balancedness(slot_loads(*pair)) for pair in pairs])


def imbalance(loads: np.ndarray) -> np.ndarray:
    """(max - mean) / mean over the last axis: TensorRT-LLM's imbalance ratio."""
    return loads.max(axis=-1) / loads.mean(axis=-1) - 1


def correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's correlation of expert loads per layer, averaged over layers (the last two axes)."""
    return (stats.zscore(one, axis=-1) * stats.zscore(other, axis=-1)).mean(axis=(-2, -1))


def sorted_relative(loads: np.ndarray) -> np.ndarray:
    """Loads over their layer's mean, hottest expert first."""
    return -np.sort(-loads, axis=-1) / loads.mean(axis=-1, keepdims=True)


def gini(loads: np.ndarray) -> np.ndarray:
    """[windows, layers] Gini coefficient: 0 for equal loads, towards 1 for a single hot expert."""
    experts = loads.shape[-1]
    return -(np.arange(1 - experts, experts, 2) * sorted_relative(loads)).sum(axis=-1) / experts**2


def hottest_share(loads: np.ndarray, part: float = 0.05) -> np.ndarray:
    """[windows, layers] share of the tokens that the hottest ``part`` of the experts takes."""
    experts = loads.shape[-1]
    return sorted_relative(loads)[..., : round(part * experts)].sum(axis=-1) / experts


def hill(loads: np.ndarray, part: float = 0.1) -> np.ndarray:
    """[windows, layers] Hill's estimate of the tail exponent from the hottest ``part``."""
    count = round(part * loads.shape[-1])
    tail = sorted_relative(loads)[..., : count + 1]
    return 1 / np.log(tail[..., :count] / tail[..., count:]).mean(axis=-1)


def unit_imbalance(loads: np.ndarray, units: int) -> np.ndarray:
    """[windows, layers] `imbalance` over ``units`` blocks of consecutive experts: groups, ranks."""
    return imbalance(loads.reshape(*loads.shape[:-1], units, -1).sum(axis=-1))


def over_poisson(loads: np.ndarray) -> np.ndarray:
    """[windows - 1] variance of the change from window to window, over that of sampling alone."""
    scaled = loads * (loads.mean() / loads.mean(axis=-1, keepdims=True))
    change = ((scaled[1:] - scaled[:-1]) ** 2).sum(axis=(1, 2))
    return change / (scaled[1:] + scaled[:-1]).sum(axis=(1, 2))


def hot_log_ratio(loads: np.ndarray, part: float = 0.05) -> np.ndarray:
    """[windows - 1] standard deviation of the log change of the hottest ``part`` of the experts."""
    hottest = np.argsort(-loads[:-1], axis=-1)[..., : round(part * loads.shape[-1])]
    before, after = (
        np.maximum(np.take_along_axis(each, hottest, axis=-1), 1)
        for each in (loads[:-1], loads[1:])
    )
    return np.log(after / before).std(axis=-1).mean(axis=-1)


def calibration(trace: Trace) -> list[Row]:
    """All rows for ``trace``; raises `UserError` where its shape is not the calibrated one."""
    loads = trace.windows().astype(np.float64)
    if loads.shape != SHAPE:
        found, wanted = (" x ".join(map(str, shape)) for shape in (loads.shape, SHAPE))
        raise UserError(
            f"the trace has {found} windows x layers x experts; the published figures are for "
            f"{wanted}"
        )
    records = trace.records()
    calm = loads[1:REGIME_WINDOW]
    ratios = [*_balancedness(loads), *_correlations(loads, records)]
    others = [
        *_skew(loads),
        *_ranks(loads, records),
        ("drift within a regime: variance / Poisson", (9, 400), over_poisson(calm)),
        ("  deviation of log ratio, hottest 5 %", (0.1, 0.7), hot_log_ratio(calm)),
    ]
    return [*(Row(*row, ratio=True) for row in ratios), *(Row(*row) for row in others)]


# Rows by what they are about: name, target and what was measured. "Transition" i is from window i
# to i + 1.


def _balancedness(loads: np.ndarray) -> list[tuple]:
    coming = loads[1:]
    slots, free = (over_slots(coming, loads, each) for each in (BY_NODE, ANYWHERE))
    gpus = [balancedness(gpu_loads(*pair, 32)) for pair in zip(coming, place(loads, ANYWHERE))]
    by_transition = (0.2107, 0.3398, 0.3672, 0.3527, 0.2850)
    return [
        *(
            (f"hierarchical, over slots: transition {i}", target, slots[i])
            for i, target in enumerate(by_transition)
        ),
        ("  transitions 0-4, mean", 0.3111, slots[:5].mean()),
        ("  all 11, mean", 0.25, slots.mean()),
        ("greedy, over slots: transitions 0-4, mean", 0.3568, free[:5].mean()),
        ("  all 11, mean", 0.2855, free.mean()),
        ("hierarchical over greedy: transitions 0-4", 0.872, slots[:5].mean() / free[:5].mean()),
        ("greedy, packed, over GPUs: transition 0", 0.655, gpus[0]),
        ("  transitions 1-7, mean", 0.835, np.mean(gpus[1:8])),
        ("  transition 8 (the regime change)", 0.44, gpus[8]),
        ("  transition 9", 0.69, gpus[9]),
        ("  transition 10", 0.68, gpus[10]),
        ("  all 11, mean", 0.755, np.mean(gpus)),
    ]


def _correlations(loads: np.ndarray, records: np.ndarray) -> list[tuple]:
    pairs = correlation(loads[:-1], loads[1:])
    halves = [half.sum(axis=1) for half in np.array_split(records, 2, axis=1)]
    far = correlation(loads[1], loads[REGIME_WINDOW - 1])
    return [
        ("correlation of windows: transition 0", 0.7, pairs[0]),
        ("  transitions 1-7, each", (0.95, 0.98), pairs[1:8]),
        ("  transition 8", (0.1, 0.3), pairs[8]),
        ("  transitions 9 and 10", (0.7, 0.8), pairs[9:]),
        ("  close workloads: halves of a window", 0.99, correlation(*halves)),
        ("  far workloads: windows 1 and 8", (0.55, 0.91), far),
    ]


def _skew(loads: np.ndarray) -> list[tuple]:
    peak, spread = 1 + imbalance(loads), stats.variation(loads, axis=-1)
    log = np.log(np.maximum(loads, 1)).std(axis=2)
    low, high = np.percentile(spread, [5, 95])
    before = sorted_relative(loads[:REGIME_WINDOW]).mean(axis=(0, 1))
    by_rank = [(f"  rank {rank}", target, before[rank - 1]) for rank, target in SORTED.items()]
    return [
        ("max/mean per layer, mean of each window", (5.6, 8.1), peak.mean(axis=1)),
        ("  smallest of all layers and windows", 2.8, peak.min()),
        ("  largest", 10.3, peak.max()),
        ("std/mean per layer, mean of each window", (0.74, 1.02), spread.mean(axis=1)),
        ("  5th percentile over layers", 0.52, low),
        ("  95th percentile", 1.2, high),
        ("Gini, mean of each window", (0.32, 0.44), gini(loads).mean(axis=1)),
        (
            "hottest 5 %: share, mean of each window",
            (0.17, 0.22),
            hottest_share(loads).mean(axis=1),
        ),
        ("deviation of log load, mean of each window", (0.58, 0.86), log.mean(axis=1)),
        ("Hill exponent of the hottest 10 %", (2.4, 2.7), hill(loads).mean()),
        ("load/mean before the regime change: rank 1", *by_rank[0][1:]),
        *by_rank[1:],
    ]


def _ranks(loads: np.ndarray, records: np.ndarray) -> list[tuple]:
    groups = 1 + unit_imbalance(loads, BY_NODE.num_groups).mean(axis=1)
    ranks = np.array([unit_imbalance(one, BY_NODE.num_gpus) for one in records])
    # A deployment records its own workload: placed by the first half of a window, judged on the
    # records of the second.
    first, second = np.array_split(records, 2, axis=1)
    placements = place(first.sum(axis=1, dtype=np.float64), ANYWHERE)
    balanced = [imbalance(gpu_loads(*pair, BY_NODE.num_gpus)) for pair in zip(second, placements)]
    return [
        ("groups, max/mean, mean of each window", (1.66, 2.07), groups),
        ("(max-mean)/mean of 32 ranks, unbalanced", 1.564, ranks.mean()),
        ("  single layers", (0.46, 2.46), ranks.mean(axis=(0, 1))),
        ("  288 slots, by the window's first half", 0.115, np.mean(balanced)),
    ]


def report(trace: Trace) -> tuple[str, bool]:
    """The table as text, and whether every row is within bounds."""
    rows = calibration(trace)
    loads = trace.windows().astype(np.float64)
    by_node, anywhere = (over_slots(loads, loads, each).mean() for each in (BY_NODE, ANYWHERE))
    missed = sum(not row.within for row in rows)
    lines = [
        f"{'figure':<42} {'target':>12} {'this trace':>16}",
        *map(str, rows),
        "\nEvery row is judged, none gives way to another. Groups as uneven as those",
        "recorded do not contradict a ratio of 0.872 between hierarchical and greedy:",
        "that is for placements judged on the next window. Judged on the window that",
        f"they were made from, the ratio of this trace is {by_node / anywhere:.3f}.",
        f"{len(rows) - missed} of {len(rows)} rows within bounds, {missed} out",
    ]
    return "\n".join(lines), missed == 0


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m eplb.bench.calibration", description=__doc__)
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--trace", metavar="FILE", help="default: the embedded one")
    either.add_argument("--seed", type=int, help="make one like the embedded one with this seed")
    args = parser.parse_args(arguments)
    if args.seed is None:
        trace = read_trace(args.trace or project_file("expert-load.json"))
    else:
        trace = generate(replace(PRESETS["deepseek-v3"], seed=args.seed))
    text, good = report(trace)
    print(text)
    return DONE if good else FAILED


if __name__ == "__main__":
    exit_on_user_error(main)

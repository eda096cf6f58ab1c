"""What statistics say of the ranks' loads, now and under another placement: tables and a plot.

The table is that of TensorRT-LLM's report_load_statistics.py: per layer the mean, the standard
deviation (of a sample, n - 1, as torch's) and the imbalance ratio (max - mean) / mean of the load,
each averaged over the iterations, and the average row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eplb.common import UserError, replacing
from eplb.loads import balancedness, gpu_loads, slot_loads
from eplb.placement import ExpertPlacement

PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class LoadTable:
    """Load per layer, averaged over the iterations.

    layers: their numbers; mean, std, imbalance_ratio: [layers] float64, the first two in tokens
    balancedness: Σ mean / Σ max over the layers, averaged over the iterations
    """

    layers: tuple[int, ...]
    mean: np.ndarray
    std: np.ndarray
    imbalance_ratio: np.ndarray
    balancedness: float

    def __str__(self) -> str:
        lines = [f"{'layer':<8}{'mean':>12}{'std':>14}{'imbalance-ratio':>18}"]
        rows = zip(self.layers, self.mean, self.std, self.imbalance_ratio, strict=True)
        average = ("average", self.mean.mean(), self.std.mean(), self.imbalance_ratio.mean())
        for layer, mean, std, ratio in (*rows, average):
            lines.append(f"{layer:<8}{mean:>12.1f}{std:>14.6f}{ratio:>18.6f}")
        return "\n".join(lines)


def tabulate(
    layers: tuple[int, ...],
    loads: np.ndarray,
    placement: ExpertPlacement | None,
    num_gpus: int | None,
) -> LoadTable:
    """The table of ``loads`` [iterations, layers, experts].

    With a placement and ``num_gpus`` per GPU; with a placement alone per slot; with neither per
    expert. Iterations in which a layer saw no token do not count for its imbalance ratio.
    """
    if placement is None:
        units = loads.astype(np.float64)
    elif num_gpus is None:
        units = slot_loads(loads, placement)
    else:
        units = gpu_loads(loads, placement, num_gpus)
    mean, hottest = units.mean(axis=2), units.max(axis=2)
    ratio = np.divide(hottest - mean, mean, out=np.zeros_like(mean), where=mean > 0)
    busy = np.maximum((mean > 0).sum(axis=0), 1)
    # Idle iterations have no balancedness.
    balanced = balancedness(units[units.any(axis=(1, 2))])
    return LoadTable(
        layers=layers,
        mean=mean.mean(axis=0),
        std=units.std(axis=2, ddof=1 if units.shape[2] > 1 else 0).mean(axis=0),
        imbalance_ratio=ratio.sum(axis=0) / busy,
        balancedness=float(balanced.mean()) if balanced.size else np.nan,
    )


def compare(tables: dict[str, LoadTable]) -> str:
    """One line per placement: average imbalance ratio and balancedness."""
    width = max(len(name) for name in tables) + 2
    lines = [f"{'placement':<{width}}{'imbalance-ratio':>16}{'balancedness':>14}"]
    for name, table in tables.items():
        ratio = table.imbalance_ratio.mean()
        lines.append(f"{name:<{width}}{ratio:>16.6f}{table.balancedness:>14.6f}")
    return "\n".join(lines)


def check_plot(path: Path | None) -> None:
    """Refuse a plot that could not be written, before any work is done."""
    if path is not None and path.suffix not in PLOT_SUFFIXES:
        raise UserError(f"--plot {path}: the suffix must be one of {', '.join(PLOT_SUFFIXES)}")


def plot(path: Path, tables: dict[str, LoadTable]) -> None:
    """Draw the imbalance ratio of each layer, one line per placement."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4), layout="constrained")
    for name, table in tables.items():
        label = f"{name} (average {table.imbalance_ratio.mean():.3f})"
        axes.plot(table.layers, table.imbalance_ratio, marker="o", markersize=3, label=label)
    axes.set(xlabel="layer", ylabel="imbalance ratio, (max − mean) / mean", ylim=(0, None))
    figure.legend(loc="outside upper center", ncols=2)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150)
    pyplot.close(figure)

"""The ranks' loads under a placement: a table, a comparison and a picture.

The table is that of TensorRT-LLM's report_load_statistics.py: per layer the mean, the standard
deviation (of a sample, n - 1, as torch's) and the imbalance ratio (max - mean) / mean of the load,
each averaged over the iterations, and the average row. What holds no token, a layer or an
iteration of one, is left out of every average.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eplb.common import UserError, check_writable, replacing
from eplb.loads import balancedness, gpu_loads, slot_loads
from eplb.placement import ExpertPlacement

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
NAME_WIDTH = 48  # so that a comparison fits into 80 columns


@dataclass(frozen=True)
class LoadTable:
    """Load per layer, averaged over the iterations; NaN for a layer without tokens.

    layers: their numbers; mean, std, imbalance_ratio: [layers] float64, the first two in tokens
    relative: [layers, units] float64, the load of each unit over its layer's mean
    balancedness: Σ mean / Σ max over the layers, averaged over the iterations
    """

    layers: tuple[int, ...]
    mean: np.ndarray
    std: np.ndarray
    imbalance_ratio: np.ndarray
    relative: np.ndarray
    balancedness: float

    @property
    def average_imbalance_ratio(self) -> float:
        return float(np.nanmean(self.imbalance_ratio))

    def __str__(self) -> str:
        columns = (self.mean, self.std, self.imbalance_ratio)
        rows = [[str(n), *row] for n, *row in zip(self.layers, *columns, strict=True)]
        rows.append(["average", *(np.nanmean(column) for column in columns)])
        cells = [["layer", "mean", "std", "imbalance-ratio"]]
        for name, mean, std, ratio in rows:
            idle = np.isnan(mean)
            cells.append(
                [name, *(["-"] * 3 if idle else [f"{mean:.1f}", f"{std:.1f}", f"{ratio:.4f}"])]
            )
        widths = [max(map(len, column)) + 2 for column in zip(*cells, strict=True)]
        return "\n".join(
            row[0].ljust(widths[0])
            + "".join(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            for row in cells
        )


def tabulate(
    layers: tuple[int, ...],
    loads: np.ndarray,
    placement: ExpertPlacement | None,
    num_gpus: int | None,
) -> LoadTable:
    """The table of ``loads`` [iterations, layers, experts].

    With a placement and ``num_gpus`` per GPU; with a placement alone per slot; with neither per
    expert.
    """
    if placement is None:
        units = loads.astype(np.float64)
    elif num_gpus is None:
        units = slot_loads(loads, placement)
    else:
        units = gpu_loads(loads, placement, num_gpus)
    # Idle places become NaN here, and nanmean leaves them out from then on.
    units = np.where(loads.any(axis=2, keepdims=True), units, np.nan)
    mean, total = units.mean(axis=2), np.nansum(units, axis=0)
    deviation = units.std(axis=2, ddof=1 if units.shape[2] > 1 else 0)
    whole = total.mean(axis=1, keepdims=True)
    return LoadTable(
        layers=layers,
        mean=_over_iterations(mean),
        std=_over_iterations(deviation),
        imbalance_ratio=_over_iterations((units.max(axis=2) - mean) / mean),
        relative=np.divide(total, whole, out=np.full_like(total, np.nan), where=whole > 0),
        balancedness=float(
            np.mean([balancedness(np.nan_to_num(each)) for each in units[loads.any(axis=(1, 2))]])
        ),
    )


def _over_iterations(values: np.ndarray) -> np.ndarray:
    """[layers]: the mean of ``values`` [iterations, layers], NaN apart."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    sums = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(sums, count, out=np.full(len(count), np.nan), where=count > 0)


def compare(tables: dict[str, LoadTable]) -> str:
    """One line per placement: average imbalance ratio and balancedness."""
    names = [name if len(name) <= NAME_WIDTH else f"…{name[1 - NAME_WIDTH :]}" for name in tables]
    width = max(len(name) for name in (*names, "placement")) + 2
    lines = [f"{'placement':<{width}}{'imbalance-ratio':>15}{'balancedness':>14}"]
    for name, table in zip(names, tables.values(), strict=True):
        ratio = table.average_imbalance_ratio
        lines.append(f"{name:<{width}}{ratio:>15.4f}{table.balancedness:>14.4f}")
    return "\n".join(lines)


def check_plot(path: Path | None) -> None:
    """Refuse a plot that could not be written, before any work is done."""
    if path is None:
        return
    if path.suffix not in PLOT_SUFFIXES:
        raise UserError(f"--plot {path}: the suffix must be one of {', '.join(PLOT_SUFFIXES)}")
    check_writable(path)


def plot(path: Path, tables: dict[str, LoadTable], unit: str) -> None:
    """Draw every unit's load in every layer, a panel per placement, and the layers' imbalance.

    unit: what the tables are over, such as "rank"
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(9, 7), layout="constrained")
    panels, below = figure.subfigures(2, 1, height_ratios=(3, 2))
    heats = panels.subplots(1, len(tables), squeeze=False)[0]
    lines = below.subplots()
    hottest = max(float(np.nanmax(table.relative)) for table in tables.values())
    for axes, (name, table) in zip(heats, tables.items(), strict=True):
        image = axes.imshow(table.relative, aspect="auto", cmap="magma_r", vmin=0, vmax=hottest)
        title = f"{name}\nbalancedness {table.balancedness:.3f}"
        axes.set(title=title, xlabel=unit, ylabel="layer")
        rows = np.linspace(0, len(table.layers) - 1, min(len(table.layers), 6)).astype(int)
        axes.set_yticks(rows, [table.layers[row] for row in rows])
        label = f"{name} (average {table.average_imbalance_ratio:.3f})"
        lines.plot(table.layers, table.imbalance_ratio, marker="o", markersize=3, label=label)
    panels.colorbar(image, ax=heats, label="load / mean of the layer")
    lines.set(xlabel="layer", ylabel="(max − mean) / mean", ylim=(0, None))
    lines.legend()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150)
    pyplot.close(figure)

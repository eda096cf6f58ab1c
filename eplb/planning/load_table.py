"""The ranks' loads under a placement: a table, a comparison and a picture.

The table is that of TensorRT-LLM's report_load_statistics.py: per layer the mean, the standard
deviation (of a sample, n - 1, as torch's) and the imbalance ratio (max - mean) / mean of the load,
each averaged over the iterations, and the average row. What holds no token, a layer or an
iteration of one, is left out of every average. Not covered: tokens per second
(`eplb.planning.report`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eplb.common import replacing
from eplb.loads import balancedness, slot_loads
from eplb.placement import Deployment, ExpertPlacement
from eplb.throughput.dispatch import gpu_loads

NAME_WIDTH = 48  # so that a comparison fits into 80 columns


@dataclass(frozen=True)
class LoadTable:
    """Load per layer, averaged over the iterations; NaN for a layer without tokens.

    layers: their numbers; mean, std, imbalance_ratio: [layers] float64, the first two in tokens
    loads: [layers, units] float64, tokens of all iterations
    balancedness: Σ mean / Σ max over the layers, averaged over the iterations
    """

    layers: tuple[int, ...]
    mean: np.ndarray
    std: np.ndarray
    imbalance_ratio: np.ndarray
    loads: np.ndarray
    balancedness: float

    @property
    def average_imbalance_ratio(self) -> float:
        return float(np.nanmean(self.imbalance_ratio))

    def __str__(self) -> str:
        figures = np.stack([self.mean, self.std, self.imbalance_ratio], axis=1)
        cells = [["layer", "mean", "std", "imbalance-ratio"]]
        averages = np.vstack([figures, np.nanmean(figures, axis=0)])
        for name, (mean, std, ratio) in zip([*self.layers, "average"], averages, strict=True):
            shown = [f"{mean:.1f}", f"{std:.1f}", f"{ratio:.4f}"]
            cells.append([str(name), *(["-"] * 3 if np.isnan(mean) else shown)])
        return columns(cells)


def columns(rows: list[list[str]]) -> str:
    """The cells of ``rows`` below each other, the first column to the left, the others right."""
    first, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        row[0].ljust(first) + "".join(f"  {cell:>{n}}" for cell, n in zip(row[1:], widths))
        for row in rows
    )


def tabulate(
    layers: tuple[int, ...],
    loads: np.ndarray,
    placement: ExpertPlacement | None = None,
    deployment: Deployment | None = None,
    dispatch: str = "even",
) -> LoadTable:
    """The table of ``loads`` [iterations, layers, experts].

    With a placement and its ``deployment`` per GPU, under the rule ``dispatch`` of
    `eplb.throughput.dispatch`; with a placement alone per slot; with neither per expert.
    """
    if placement is None:
        units = loads.astype(np.float64)
    elif deployment is None:
        units = slot_loads(loads, placement)
    else:
        units = gpu_loads(loads, placement, deployment, dispatch)
    # Idle places become NaN here, and nanmean leaves them out from then on.
    units = np.where(loads.any(axis=2, keepdims=True), units, np.nan)
    mean = units.mean(axis=2)
    deviation = units.std(axis=2, ddof=1 if units.shape[2] > 1 else 0)
    return LoadTable(
        layers=layers,
        mean=_over_iterations(mean),
        std=_over_iterations(deviation),
        imbalance_ratio=_over_iterations((units.max(axis=2) - mean) / mean),
        loads=np.nansum(units, axis=0),
        balancedness=float(np.nanmean(balancedness(np.nan_to_num(units)))),
    )


def _over_iterations(values: np.ndarray) -> np.ndarray:
    """[layers]: the mean of ``values`` [iterations, layers], NaN apart."""
    return np.ma.masked_invalid(values).mean(axis=0).filled(np.nan)


def compare(tables: dict[str, LoadTable]) -> str:
    """One line per placement: average imbalance ratio and balancedness."""
    names = [name if len(name) <= NAME_WIDTH else f"…{name[1 - NAME_WIDTH :]}" for name in tables]
    rows = [["placement", "imbalance-ratio", "balancedness"]]
    for name, table in zip(names, tables.values(), strict=True):
        rows.append([name, f"{table.average_imbalance_ratio:.4f}", f"{table.balancedness:.4f}"])
    return columns(rows)


def plot(path: Path, tables: dict[str, LoadTable], unit: str) -> None:
    """Draw every unit's load in every layer, a panel per placement, and the layers' imbalance.

    unit: what the tables are over, such as "rank"
    """
    from matplotlib.figure import Figure

    from eplb.evaluation.plots import PROGRAM, QUIET, draw_loads

    figure = Figure(figsize=(11, 8), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3, 2))
    panels = {f"{name}: balancedness {t.balancedness:.3f}": t.loads for name, t in tables.items()}
    layers = next(iter(tables.values())).layers
    rows = np.linspace(0, len(layers) - 1, min(len(layers), 6)).astype(int)
    for axis in draw_loads(above, panels, unit):
        axis.set_yticks(rows, [layers[row] for row in rows])
    figure.suptitle(f"Load of every {unit} in every layer")
    lines = below.subplots()
    for colour, (name, table) in zip((QUIET, PROGRAM), tables.items(), strict=False):
        label = f"{name}: {table.average_imbalance_ratio:.3f} on average"
        lines.plot(table.layers, table.imbalance_ratio, ".-", color=colour, label=label)
    lines.set(xlabel="layer", ylabel="imbalance ratio, (max − mean) / mean", ylim=(0, None))
    below.legend(loc="outside upper center", ncols=2, frameon=False)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)

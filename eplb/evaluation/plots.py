"""Two pictures of an evaluation: the load of every GPU, and balancedness over time.

Importing this module imports matplotlib; nobody does who draws nothing. Not covered: pictures of
several programs (`eplb.bench.plots`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from eplb.common import replacing
from eplb.evaluation.measure import Evaluation
from eplb.loads import balancedness, experts_in_order

# Two colours that differ in lightness too, for print and for colour-blind readers.
PROGRAM, SEED, QUIET = "#1b6ca8", "#d1751f", "#777777"


def draw(evaluation: Evaluation, folder: Path) -> None:
    """Write gpu_loads.png and balancedness.png to ``folder``."""
    for name, figure in (("gpu_loads", gpu_loads_figure), ("balancedness", balancedness_figure)):
        with replacing(folder / f"{name}.png") as partial:
            figure(evaluation).savefig(partial, dpi=120)


def gpu_loads_figure(evaluation: Evaluation) -> Figure:
    """Every GPU's load in every layer, with experts in order and with the program.

    Shown is the window whose balancedness is the median: a typical one, and not an average, in
    which the misses of single windows would cancel out.
    """
    scores = evaluation.scores
    order = np.argsort(scores.balancedness_score, kind="stable")
    window = int(order[np.isfinite(scores.balancedness_score).sum() // 2])
    load = evaluation.history.windows[window + 1]
    in_order = experts_in_order(*load.shape, scores.deployment.num_replicas)
    panels = {
        f"{name}: balancedness {balancedness(loads):.3f}": loads
        for name, loads in (
            ("experts in order", scores.over_gpus(load, in_order)),
            ("this program", scores.gpu_loads[window]),
        )
    }
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    draw_loads(figure, panels)
    figure.suptitle(
        f"Load of every GPU in window {window + 1}; the program had seen window {window}"
    )
    return figure


def draw_loads(figure, panels: dict[str, np.ndarray], unit: str = "GPU") -> list:
    """A panel a placement in ``figure``, from its loads [layers, units]; the panels' axes.

    unit: what the columns are
    """
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, loads) in zip(axes, panels.items(), strict=True):
        mean = loads.mean(axis=1, keepdims=True)
        relative = np.divide(loads, mean, out=np.ones_like(loads), where=mean > 0)
        image = axis.imshow(relative, cmap="RdBu_r", vmin=0, vmax=2, aspect="auto")
        axis.set(title=title, xlabel=unit)
    axes[0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=axes, extend="max", pad=0.01)
    bar.set_label(f"tokens on the {unit} / mean of its layer")
    return list(axes)


def balancedness_figure(evaluation: Evaluation) -> Figure:
    """Balancedness by window: the program, the seed, and what a perfect forecast would give."""
    scores, seed = evaluation.scores, evaluation.seed_scores
    windows = np.arange(len(scores.balancedness_score))
    oracle = "this program, on the window it saw (oracle)"
    lines = {
        oracle: (scores.balancedness_oracle, ":", PROGRAM),
        "this program": (scores.balancedness_score, "-o", PROGRAM),
        "seed": (seed.balancedness_score if seed else None, "--s", SEED),
        "experts in order": (scores.balancedness_in_order, "-", QUIET),
    }
    figure = Figure(figsize=(9, 5), layout="constrained")
    axis = figure.subplots()
    for name, (values, style, colour) in lines.items():
        if values is not None:
            label = f"{name}: mean {np.nanmean(values):.3f}"
            axis.plot(windows, values, style, color=colour, markersize=5, label=label)
    axis.set_xticks(windows, [f"{w}→{w + 1}" for w in windows])
    axis.tick_params(axis="x", rotation=90 if len(windows) > 16 else 0)
    axis.set(
        ylim=(0, 1.02),
        title="Balancedness by window",
        xlabel="window placed after → window scored on",
        ylabel="balancedness over GPUs (1 is perfect)",
    )
    axis.grid(axis="y", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure

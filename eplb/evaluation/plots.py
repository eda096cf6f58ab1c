"""Two pictures of an evaluation: the load of every GPU, and balancedness over time.

Importing this module imports matplotlib; nobody does who draws nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from eplb.common import replacing
from eplb.evaluation.measure import Evaluation
from eplb.loads import balancedness, experts_in_order, gpu_loads

# Two colours that differ in lightness too, for print and for colour-blind readers.
PROGRAM, SEED, QUIET = "#1b6ca8", "#d1751f", "#777777"


def draw(evaluation: Evaluation, folder: Path) -> None:
    """Write gpu_loads.png and balancedness.png to ``folder``."""
    for name, figure in (
        ("gpu_loads.png", gpu_loads_figure(evaluation)),
        ("balancedness.png", balancedness_figure(evaluation)),
    ):
        with replacing(folder / name) as partial:
            figure.savefig(partial, dpi=120)


def gpu_loads_figure(evaluation: Evaluation) -> Figure:
    """Every GPU's load in every layer, with experts in order and with the program.

    Shown is the window whose balancedness is the median: a typical one, and not an average, in
    which the misses of single windows would cancel out.
    """
    scores = evaluation.scores
    order = np.argsort(scores.balancedness_score, kind="stable")
    window = int(order[np.isfinite(scores.balancedness_score).sum() // 2])
    after = scores.gpu_loads[window]
    load = evaluation.history.windows[window + 1]
    in_order = experts_in_order(*load.shape, scores.deployment.num_replicas)
    before = gpu_loads(load, in_order, scores.deployment.num_gpus)

    panels = {"experts in order": before, "this program": after}
    titles = [f"{name}: balancedness {balancedness(each):.3f}" for name, each in panels.items()]
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    draw_loads(figure, dict(zip(titles, panels.values(), strict=True)))
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
    scores = evaluation.scores
    windows = np.arange(len(scores.balancedness_score))
    lines = [
        (
            "this program, on the window it saw (oracle)",
            scores.balancedness_oracle,
            PROGRAM,
            ":",
            "",
        ),
        ("this program", scores.balancedness_score, PROGRAM, "-", "o"),
        ("experts in order", scores.balancedness_in_order, QUIET, "-", ""),
    ]
    if evaluation.seed_scores is not None:
        lines.insert(2, ("seed", evaluation.seed_scores.balancedness_score, SEED, "--", "s"))

    figure = Figure(figsize=(9, 5), layout="constrained")
    axis = figure.subplots()
    for name, values, colour, style, marker in lines:
        label = f"{name}: mean {np.nanmean(values):.3f}"
        axis.plot(
            windows, values, style, color=colour, marker=marker or None, markersize=5, label=label
        )
    axis.set_xticks(windows, [f"{w}→{w + 1}" for w in windows])
    if len(windows) > 16:
        axis.tick_params(axis="x", rotation=90)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("window placed after → window scored on")
    axis.set_ylabel("balancedness over GPUs (1 is perfect)")
    axis.set_title("Balancedness by window")
    axis.grid(axis="y", alpha=0.3)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.legend(
        *axis.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    return figure

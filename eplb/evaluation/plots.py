"""Two pictures of an evaluation: the load of every GPU, and balancedness over time.

Importing this module imports matplotlib; nobody does who draws nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from eplb.common import replacing
from eplb.evaluation.measure import Evaluation
from eplb.loads import balancedness

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


def unbalanced_loads(load: np.ndarray, num_gpus: int) -> np.ndarray:
    """[layers, num_gpus]: tokens per GPU of ``load`` [layers, experts] with no balancer.

    Experts lie on the GPUs in order of their ids, one replica each, as evenly as they divide.
    """
    experts = load.shape[1]
    gpu = np.arange(experts) * num_gpus // experts
    loads = np.zeros((load.shape[0], num_gpus))
    np.add.at(loads, (slice(None), gpu), load)
    return loads


def gpu_loads_figure(evaluation: Evaluation) -> Figure:
    """Every GPU's load in every layer, without a balancer and with the program.

    Shown is the window whose balancedness is the median: a typical one, and not an average, in
    which the misses of single windows would cancel out.
    """
    scores = evaluation.runs[0].scores
    order = np.argsort(scores.balancedness, kind="stable")
    window = int(order[len(order) // 2])
    after = scores.gpu_loads[window]
    before = unbalanced_loads(evaluation.history.windows[window + 1], after.shape[1])

    names = ("no balancer", "this program")
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, name, loads in zip(axes, names, (before, after), strict=True):
        mean = loads.mean(axis=1, keepdims=True)
        relative = np.divide(loads, mean, out=np.ones_like(loads), where=mean > 0)
        image = axis.imshow(relative, cmap="RdBu_r", vmin=0, vmax=2, aspect="auto")
        axis.set_title(f"{name}: balancedness {balancedness(loads):.3f}")
        axis.set_xlabel("GPU")
    axes[0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=axes, extend="max", pad=0.01)
    bar.set_label("tokens on the GPU / mean over the layer's GPUs")
    figure.suptitle(
        f"Load of every GPU in window {window + 1}; the program had seen window {window}"
    )
    return figure


def balancedness_figure(evaluation: Evaluation) -> Figure:
    """Balancedness by window: the program, the seed, and what a perfect forecast would give."""
    scores = [run.scores for run in evaluation.runs]
    next_window = np.mean([s.balancedness for s in scores], axis=0)
    same_window = np.mean([s.same_window for s in scores], axis=0)
    windows = np.arange(len(next_window))
    num_gpus = evaluation.settings.deployment.num_gpus
    unbalanced = [
        balancedness(unbalanced_loads(load, num_gpus)) for load in evaluation.history.windows[1:]
    ]

    lines = [
        ("this program, on the window it saw (oracle)", same_window, PROGRAM, ":", ""),
        ("this program", next_window, PROGRAM, "-", "o"),
        ("no balancer", np.array(unbalanced), QUIET, "-", ""),
    ]
    if evaluation.seed_scores is not None:
        lines.insert(2, ("seed", evaluation.seed_scores.balancedness, SEED, "--", "s"))

    figure = Figure(figsize=(9, 5), layout="constrained")
    axis = figure.subplots()
    for name, values, colour, style, marker in lines:
        label = f"{name}: mean {values.mean():.3f}"
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

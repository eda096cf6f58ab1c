"""What an evaluation leaves behind: metrics.json and correct.json.

The two files are as ShinkaEvolve 0.0.7 reads them. It ignores exit statuses and takes whatever
files it finds, so those of an earlier program are removed before anything else happens. Not
covered: the table that shows them (`eplb.evaluation.table`), and pictures
(`eplb.evaluation.plots`).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from eplb.common import UserError, printable, write_text
from eplb.evaluation.feedback import Gains, feedback, refusal_feedback, worst_layers
from eplb.evaluation.measure import Evaluation
from eplb.evaluation.scores import combined_scores

PLOTS = ("gpu_loads.png", "balancedness.png")


def prepare(results_dir: Path) -> None:
    """Make the folder, see that it can be written, and remove the results of an earlier program."""
    try:
        results_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=results_dir).close()
        # correct.json first: without it, no score counts.
        for name in ("correct.json", "metrics.json", *(f"plots/{plot}" for plot in PLOTS)):
            (results_dir / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to the results folder {results_dir}: {error.strerror}; "
            f"choose another with --results_dir"
        ) from error


def write_results(results_dir: Path, metrics: dict[str, Any]) -> None:
    """Write both files; correct.json comes last, since it is what makes a score count."""
    refusal = metrics["all_validation_errors"]
    _write(results_dir / "metrics.json", metrics)
    _write(results_dir / "correct.json", {"correct": not refusal, "error": "".join(refusal)})


def write_misuse(results_dir: Path, message: str) -> None:
    """Say in correct.json that there was no evaluation; there is no score to write."""
    _write(results_dir / "correct.json", {"correct": False, "error": f"not evaluated: {message}"})


def _write(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def metrics_of(evaluation: Evaluation) -> dict[str, Any]:
    """The content of metrics.json. ``public`` is what a model may see."""
    refusal, run = evaluation.refusal, evaluation.run
    if refusal is None:
        gains, errors = Gains.of(evaluation), []
        score = evaluation.settings.criteria.combined_score(evaluation.figures)
        public, private = evaluation.figures.public, _extras(evaluation, gains)
        text, run_seconds = feedback(evaluation, gains), run.seconds.sum(axis=1)
    else:
        score, public, private, run_seconds = 0.0, {}, {}, np.zeros(1)
        errors = [printable(str(refusal), 1000)]
        text = refusal_feedback(errors[0], refusal.traceback)
    return {
        "combined_score": score,
        "public": public,
        "private": _setting(evaluation) | private,
        "text_feedback": text,
        # As ShinkaEvolve means them: seconds of one whole run, over the runs.
        "execution_time_mean": float(run_seconds.mean()),
        "execution_time_std": float(run_seconds.std()),
        "num_valid_runs": 0 if errors else evaluation.settings.repeats,
        "num_invalid_runs": len(errors),
        "all_validation_errors": errors,
    }


def _setting(evaluation: Evaluation) -> dict[str, Any]:
    """What was measured on what, so that the figures can be told apart and made again."""
    settings, criteria = evaluation.settings, evaluation.settings.criteria
    _, layers, experts = evaluation.history.windows.shape
    return {
        "program": str(settings.program),
        "trace": str(settings.trace),
        "deployment": {**vars(evaluation.deployment), "layers": layers, "experts": experts},
        "isolation": evaluation.isolation,
        "locality": "require" if criteria.require_locality else "report",
        "repeats": settings.repeats,
        "hardware": " ".join(criteria.hardware),
        "dispatch": criteria.dispatch,
        "scoring": criteria.scoring,
    }


def _extras(evaluation: Evaluation, gains: Gains) -> dict[str, Any]:
    """For the researcher: everything by window and repeat."""
    run, figures, seed = evaluation.run, evaluation.figures, evaluation.seed_scores
    extras = {
        "combined_scores": combined_scores(figures),
        "throughput": {
            phase: {"tokens_per_second": worth.tokens_per_second, "lost": worth.lost}
            for phase, worth in figures.throughput.items()
        },
        "lost_to": gains.parts.losses,
        "most_to_gain": list(gains.most or ()),
        "call_ms_quartiles": np.percentile(1e3 * run.seconds, [25, 75]).tolist(),
        "call_ms_by_repeat": (1e3 * run.seconds).tolist(),
        "seed_call_ms_by_repeat": (1e3 * run.seed_seconds).tolist(),
        "by_window": {name: _known(values) for name, values in evaluation.scores.by_window.items()},
        "worst_layers": [layer for layer, _, _ in worst_layers(evaluation.scores)],
    }
    if seed is not None:
        extras["seed_balancedness_by_window"] = _known(seed.balancedness_score)
    return extras


def _known(values: np.ndarray) -> list[float | None]:
    """``values`` for JSON, where a window without tokens has null."""
    return [None if np.isnan(value) else float(value) for value in values]

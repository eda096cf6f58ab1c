"""Which program of a run is best on unseen traces: `python -m eplb.evolution.confirm FOLDER`.

The best of hundreds of noisy scores on one known trace is partly luck, partly memory. The
finalists, the best programs that differ and the start program, are scored on traces drawn at this
moment (`eplb.evaluation.fresh`); the winner there becomes ``best/main.py``, with everything that
was found in ``best/confirmation.json``. Not covered: finalists that tie within the spread of the
traces; the scores say how far apart they are.
"""

from __future__ import annotations

import ast
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from eplb.common import DONE, ArgumentParser, UserError, exit_on_user_error
from eplb.evaluation.fresh import FreshScore, draw, mean_score, score_fresh
from eplb.evolution.resume import hold
from eplb.evolution.rundb import Program, Run, read_run
from eplb.sandbox.runner import Sandbox

FINALISTS = 8
# The first three presets of `fresh`: three model shapes on three deployments.
TRACES = 3


def confirm(run: Run) -> str:
    """Make the finalist that wins on unseen traces ``best/main.py``, and say so in one line.

    Raises `UserError` where no program of the run could be scored.
    """
    programs = finalists(run)
    if not programs:
        raise UserError(f"no program of {run.folder} could be scored; there is nothing to confirm")
    options = _options(run.folder)
    with (
        tempfile.TemporaryDirectory(prefix="finalists-") as name,
        Sandbox(hidden=(Path(name), run.folder)) as sandbox,
    ):
        files = [Path(name) / f"{i}.py" for i in range(len(programs))]
        for file, program in zip(files, programs, strict=True):
            file.write_text(program.code, encoding="utf-8")
        scores = score_fresh(files, draw(TRACES), sandbox, **options)
    rows = [_row(program, of) for program, of in zip(programs, scores, strict=True)]
    place = max(range(len(rows)), key=lambda i: (rows[i]["fresh"], rows[i]["known"]))
    winner, start = rows[place], rows[-1]
    keep(run.folder, programs[place], options | {"winner": winner["generation"], "programs": rows})
    ahead = f", {winner['fresh'] - start['fresh']:+.4f} to the start program" * start["start"]
    return (
        f"confirmed on {TRACES} unseen traces: gen_{winner['generation']} scores "
        f"{winner['fresh']:.4f} there{ahead}; on the known trace {winner['known']:.4f}, "
        f"a gap of {winner['gap']:+.4f}"
    )


def finalists(run: Run) -> list[Program]:
    """The best programs whose code differs by more than layout and comments; last, the start's."""
    distinct: dict[str, Program] = {}
    ranked = [program for program in run.programs if program.score is not None]
    for program in sorted(ranked, key=lambda program: -program.score):
        distinct.setdefault(_normal(program.code), program)
    start = run.seed if run.seed in ranked else None
    if start is not None:
        distinct.pop(_normal(start.code))
    return [*list(distinct.values())[:FINALISTS], *filter(None, [start])]


def _normal(code: str) -> str:
    try:
        return ast.dump(ast.parse(code))
    except (SyntaxError, ValueError):
        return code


def _options(folder: Path) -> dict[str, Any]:
    """How the run scores programs, as its saved configuration says; else the defaults."""
    saved = folder / ".hydra" / "config.yaml"
    config = yaml.safe_load(saved.read_text("utf-8")) if saved.is_file() else {}
    given = config.get("distributed_job_config", {}).get("extra_cmd_args", {})
    options = {name: given[name] for name in ("scoring", "dispatch") if name in given}
    return options | {"require_locality": given.get("locality") == "require"}


def _row(program: Program, scores: list[FreshScore]) -> dict[str, Any]:
    mean = mean_score(scores)
    return {
        **{"generation": program.generation, "id": program.id, "name": program.name},
        **{"start": program.is_seed, "known": program.score},
        **{"fresh": mean, "gap": program.score - mean},
        "scores": [score.record for score in scores],
    }


def keep(folder: Path, program: Program, confirmation: dict[str, Any] | None = None) -> None:
    """Make ``best/`` the folder of ``program``; a reader sees the old one or the new one whole.

    ShinkaEvolve keeps one too, but a run that was killed at the wrong moment has half a copy.
    """
    fresh, old = folder / ".best", folder / ".best.old"
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        shutil.copytree(folder / f"gen_{program.generation}", fresh)
        (fresh / "main.py").write_text(program.code, encoding="utf-8")
        if confirmation is not None:
            text = json.dumps(confirmation, indent=1)
            (fresh / "confirmation.json").write_text(f"{text}\n", encoding="utf-8")
        if (folder / "best").exists():
            (folder / "best").rename(old)
        fresh.rename(folder / "best")
    except OSError as error:
        raise UserError(f"cannot write {folder / 'best'}: {error.strerror}") from error
    shutil.rmtree(old, ignore_errors=True)


def main() -> int:
    parser = ArgumentParser(
        prog="python -m eplb.evolution.confirm",
        description="Score a run's best programs on traces that nobody has seen, and keep the "
        "winner as best/main.py. The run may have been interrupted.",
    )
    parser.add_argument("results", type=Path, help="the results folder of a run")
    folder = parser.parse_args().results
    run = read_run(folder)
    with hold(folder):
        print(confirm(run))
    return DONE


if __name__ == "__main__":
    exit_on_user_error(main)

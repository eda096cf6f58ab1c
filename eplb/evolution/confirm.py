"""Which program of a run is best on unseen traces: `python -m eplb.evolution.confirm FOLDER`.

The best of hundreds of noisy scores on one known trace is partly luck, partly memory. Not covered:
finalists that tie within the spread of the traces; the scores say how far apart they are.
"""

from __future__ import annotations

import ast
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from eplb.common import DONE, ArgumentParser, UserError, exit_on_user_error, progress_bar
from eplb.evaluation.fresh import draw, mean_score, score_fresh
from eplb.evaluation.measure import Criteria
from eplb.evolution.resume import hold, keep
from eplb.evolution.rundb import Program, Run, read_run
from eplb.sandbox.runner import Sandbox

FINALISTS = 8
# The first three presets of `fresh`: three model shapes on three deployments.
TRACES = 3


def confirm(run: Run) -> str:
    """Make the finalist that wins on unseen traces ``best/main.py``, and say so in one line.

    Every score is in ``best/confirmation.json``. Raises `UserError` where no program was scored.
    """
    programs = finalists(run)
    if not programs:
        raise UserError(f"no program of {run.folder} could be scored; there is nothing to confirm")
    criteria = _criteria(run.folder / ".hydra" / "config.yaml")
    with tempfile.TemporaryDirectory(prefix="finalists-") as name:
        files = [Path(name) / f"{i}.py" for i in range(len(programs))]
        for file, program in zip(files, programs, strict=True):
            file.write_text(program.code, encoding="utf-8")
        hidden = (Path(name), run.folder)
        with Sandbox(hidden=hidden) as sandbox, progress_bar("confirming") as progress:
            scores = score_fresh(files, draw(TRACES), sandbox, criteria, progress)
    rows = [_row(*of) for of in zip(programs, scores, strict=True)]
    winner = max(rows, key=lambda row: (row["fresh"], row["known"]))
    found = vars(criteria) | {"winner": winner["generation"], "programs": rows}
    keep(run.folder, programs[rows.index(winner)], json.dumps(found, indent=1))
    ahead = f", {winner['fresh'] - rows[-1]['fresh']:+.4f} to the start program"
    return (
        f"confirmed on {TRACES} unseen traces: gen_{winner['generation']} scores "
        f"{winner['fresh']:.4f} there{ahead * rows[-1]['start']}; on the known trace "
        f"{winner['known']:.4f}, a gap of {winner['gap']:+.4f}"
    )


def finalists(run: Run) -> list[Program]:
    """The best programs whose code differs by more than layout and comments; last, the start's."""
    ranked = [program for program in run.programs if program.score is not None]
    ranked.sort(key=lambda program: (program != run.seed, -program.score))
    distinct: dict[str, Program] = {}
    for program in ranked:
        distinct.setdefault(_normal(program.code), program)
    start = ranked[:1] if run.seed in ranked else []
    return list(distinct.values())[len(start) :][:FINALISTS] + start


def _normal(code: str) -> str:
    try:
        return ast.dump(ast.parse(code))
    except (SyntaxError, ValueError):
        return code


def _criteria(saved: Path) -> Criteria:
    """How the run scores programs, as its saved configuration says; else the defaults."""
    config = yaml.safe_load(saved.read_text("utf-8")) if saved.is_file() else {}
    given = config.get("distributed_job_config", {}).get("extra_cmd_args", {})
    options = {name: given[name] for name in ("scoring", "dispatch") if name in given}
    if "hardware" in given:
        options["hardware"] = [given["hardware"]]
    return Criteria(given.get("locality") == "require", **options)


def _row(program: Program, scores: list[dict[str, Any]]) -> dict[str, Any]:
    mean = mean_score(scores)
    row = {"generation": program.generation, "id": program.id, "name": program.name}
    row |= {"start": program.is_seed, "known": program.score, "fresh": mean}
    return row | {"gap": program.score - mean, "scores": scores}


def main() -> int:
    description = "Score a run's best programs on unseen traces; the winner becomes best/main.py."
    parser = ArgumentParser(prog="python -m eplb.evolution.confirm", description=description)
    parser.add_argument("results", type=Path, help="the results folder, also of an interrupted run")
    run = read_run(parser.parse_args().results)
    with hold(run.folder):
        print(confirm(run))
    return DONE


if __name__ == "__main__":
    exit_on_user_error(main)

"""A run's results folder: what ShinkaEvolve's database says of it, and its best program."""

from __future__ import annotations

import fcntl
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from eplb.common import UserError

DATABASE = "programs.sqlite"

_STATUS = """
    SELECT COUNT(DISTINCT generation),
           SUM(COALESCE(json_extract(metadata, '$.api_costs'), 0)
             + COALESCE(json_extract(metadata, '$.embed_cost'), 0)
             + COALESCE(json_extract(metadata, '$.novelty_cost'), 0)
             + COALESCE(json_extract(metadata, '$.meta_cost'), 0))
    FROM programs
"""
_BEST = """
    SELECT generation, combined_score, code FROM programs
    WHERE correct = 1 ORDER BY combined_score DESC, generation LIMIT 1
"""


@dataclass(frozen=True)
class Status:
    """Generations in the database, US dollars spent, and the best correct program, if any."""

    generations: int = 0
    cost: float = 0.0
    best_score: float | None = None
    best_generation: int | None = None


def read_status(folder: Path) -> Status:
    """What the database says now; an empty status while there is no table yet."""
    try:
        with closing(_open(folder)) as database:
            generations, cost = database.execute(_STATUS).fetchone()
            best = database.execute(_BEST).fetchone()
    except sqlite3.OperationalError:
        return Status()
    generation, score, _ = best or (None, None, None)
    return Status(generations, cost or 0.0, score, generation)


def seed_failure(folder: Path) -> str | None:
    """Why the seed program could not be scored, once it has been tried."""
    try:
        with closing(_open(folder)) as database:
            row = database.execute(
                "SELECT correct, text_feedback, json_extract(metadata, '$.stderr_log')"
                " FROM programs WHERE generation = 0"
            ).fetchone()
    except sqlite3.OperationalError:
        return None
    if row is None or row[0]:
        return None
    lines = f"{row[1] or ''}\n{row[2] or ''}".strip().splitlines()
    return lines[-1] if lines else f"see {folder}/gen_0/results"


def keep_best(folder: Path) -> Path | None:
    """Make ``best/`` the folder of the best program, and return its ``main.py``.

    ShinkaEvolve keeps it too, but a run that was killed at the wrong moment has half a copy.
    """
    with closing(_open(folder)) as database:
        best = database.execute(_BEST).fetchone()
    if best is None:
        return None
    generation, _, code = best
    program = folder / "best" / "main.py"
    if not program.is_file() or program.read_text(encoding="utf-8") != code:
        fresh = folder / ".best"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(folder / f"gen_{generation}", fresh)
        shutil.rmtree(folder / "best", ignore_errors=True)
        fresh.rename(folder / "best")
    return program


def hold(folder: Path) -> IO:
    """Keep every other run out of the folder for as long as the returned file is open."""
    lock = open(folder / ".lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise UserError(f"another run is writing to {folder}; wait or stop it first") from error
    return lock


def _open(folder: Path) -> sqlite3.Connection:
    # Read-only and never creating: ShinkaEvolve takes an existing database for a run to resume.
    return sqlite3.connect(f"file:{folder / DATABASE}?mode=ro", uri=True, timeout=30)

"""Make the results folder of an interrupted run fit to go on.

ShinkaEvolve 0.0.7 continues a run from its database. After a kill that goes wrong in four ways,
each put right here, before it starts:

- the evaluation that was running goes on alone: it is ended;
- a generation whose folder exists is never done again: folders without a row are removed;
- a generation that was overtaken by later ones is never done again: later ones move down, so
  that the database holds 0 … n without a gap;
- a run with nothing but the seed sets the seed up twice: it starts afresh.

A program is stored only once for a job id, and process ids come again: stored ids are made unique.
Every step may itself be interrupted and done again. Not covered: what models were paid for
proposals that were on their way.
"""

from __future__ import annotations

import fcntl
import shutil
import sqlite3
import subprocess
from contextlib import closing, suppress
from pathlib import Path
from typing import IO

import psutil

from eplb.common import UserError
from eplb.evolution.rundb import DATABASE, Program, read_so_far


def hold(folder: Path) -> IO:
    """Keep every other run out of the folder for as long as the returned file is open."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}); add results_dir=…") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise UserError(f"another run is writing to {folder}; wait or stop it first") from error
    return lock


def keep(folder: Path, program: Program, confirmation: str | None = None) -> None:
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
            (fresh / "confirmation.json").write_text(f"{confirmation}\n", encoding="utf-8")
        if (folder / "best").exists():
            (folder / "best").rename(old)
        fresh.rename(folder / "best")
    except OSError as error:
        raise UserError(f"cannot write {folder / 'best'}: {error.strerror}") from error
    shutil.rmtree(old, ignore_errors=True)


def prepare(folder: Path, num_islands: int) -> int:
    """Clear what a kill left behind, and return how many generations are done.

    num_islands: as configured for the run to come; it must be as it was (`UserError`)
    """
    end_evaluations(folder)
    programs = read_so_far(folder).programs
    done = sorted({program.generation for program in programs})
    if len(done) <= 1:
        _remove_generations(folder, kept=set())
        for database in folder.glob(f"{DATABASE}*"):
            database.unlink()
        return 0
    # The seed is copied to every island, and ShinkaEvolve counts generations by this number.
    islands = sum(program.generation == 0 for program in programs)
    if islands != num_islands:
        raise UserError(
            f"the run in {folder} has {islands} islands, not {num_islands}; "
            f"add db_config.num_islands={islands}"
        )
    with closing(sqlite3.connect(folder / DATABASE, timeout=30)) as database:
        for number, generation in enumerate(done):
            if generation != number:
                _renumber(database, folder, generation, number)
        with database:
            database.execute(
                "UPDATE programs SET metadata = json_set(metadata, '$.source_job_id',"
                " 'earlier:' || id) WHERE json_extract(metadata, '$.source_job_id') IS NOT NULL"
            )
            database.execute(
                "INSERT OR REPLACE INTO metadata_store (key, value) VALUES ('last_iteration', ?)",
                (str(len(done) - 1),),
            )
    _remove_generations(folder, kept=set(range(len(done))))
    return len(done)


def end_evaluations(folder: Path) -> None:
    """Kill evaluations that write into the folder, and cancel its Slurm jobs."""
    doomed = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it may end at any moment
            words = process.cmdline()
            if "--results_dir" in words and any(w.startswith(f"{folder}/gen_") for w in words):
                doomed += [process, *process.children(recursive=True)]
    for process in doomed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(doomed, timeout=10)
    if shutil.which("scancel"):
        subprocess.run(["scancel", f"--name={folder}"], capture_output=True, timeout=60)


def _remove_generations(folder: Path, kept: set[int]) -> None:
    for path in folder.glob("gen_*"):
        number = path.name.removeprefix("gen_")
        if number.isdigit() and int(number) not in kept:
            shutil.rmtree(path)


def _renumber(database: sqlite3.Connection, folder: Path, old: int, new: int) -> None:
    """Call generation ``old`` ``new``, which is free.

    Copied first, and removed by `prepare` at last: whatever is interrupted, a folder without a row
    is a leftover.
    """
    shutil.rmtree(folder / f"gen_{new}", ignore_errors=True)
    if (folder / f"gen_{old}").exists():
        shutil.copytree(folder / f"gen_{old}", folder / f"gen_{new}")
    with database:
        database.execute(
            "UPDATE programs SET generation = ?, metadata = json_set("
            " replace(metadata, ?, ?), '$.source_generation', ?) WHERE generation = ?",
            (new, f"/gen_{old}/", f"/gen_{new}/", new, old),
        )
        database.execute("DELETE FROM attempt_log WHERE generation = ?", (new,))
        database.execute("UPDATE attempt_log SET generation = ? WHERE generation = ?", (new, old))

"""Starts a run: `run_evo.py`, and what `shinka_launch` calls through the configuration.

Both build the evolution's configuration with `evolution_config`, which makes everything ready.
ShinkaEvolve itself is used as it is.
"""

from __future__ import annotations

import atexit
import os
import random
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from shinka.core import EvolutionConfig

from eplb.common import MISUSED, UserError, project_file
from eplb.evolution import resume
from eplb.evolution.models import OFFLINE_MODEL, answering_models, silent_models
from eplb.evolution.progress import Watcher
from eplb.evolution.rundb import Run

STOPPED = 1


def evolution_config(
    *, requested_models: Any, seed: int, num_islands: int, **settings: Any
) -> EvolutionConfig:
    """Make a run ready and return its ``shinka.core.EvolutionConfig``.

    Named by the configuration's ``evo_config._target_``, so that `shinka_launch` passes here too.
    requested_models: as the user named them, None if the keys decide
    seed: of the offline proposer, and of ShinkaEvolve's own draws
    num_islands: as in ``db_config``
    settings: the fields of `EvolutionConfig`

    The user's mistakes end the process with one line and status 2: Hydra would wrap an exception.
    """
    try:
        return _make_ready(requested_models, seed, num_islands, settings)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(MISUSED)


def _make_ready(
    requested: Any, seed: int, num_islands: int, settings: dict[str, Any]
) -> EvolutionConfig:
    folder = Path(settings["results_dir"])
    _check_paths(settings, folder)
    _set_environment(seed)
    models = answering_models(
        settings["llm_models"], settings["llm_kwargs"], requested=requested is not None
    )
    settings["llm_models"] = models
    if settings["meta_llm_models"]:
        settings["meta_llm_models"] = models[:1]
    folder.mkdir(parents=True, exist_ok=True)
    lock = resume.hold(folder)
    done = resume.prepare(folder, num_islands)
    if done:
        # A resumed run shall not draw again what it drew at first.
        random.seed(seed + done)
        np.random.seed(seed + done)
    _announce(settings, folder, done)
    _watch(settings, folder, lock)
    return EvolutionConfig(**settings)


def _check_paths(settings: dict[str, Any], folder: Path) -> None:
    if settings["job_type"] != "local":
        for path in (str(folder), sys.executable, str(project_file("evaluate.py"))):
            if shlex.quote(path) != path:
                raise UserError(
                    f"Slurm jobs cannot use the path {path}: only letters, digits and ._-/ work; "
                    f"choose another folder (results_dir=…)"
                )


def _set_environment(seed: int) -> None:
    """What ShinkaEvolve, the offline proposer and Slurm's commands read."""
    agent = Path(__file__).resolve().parent.parent / "proposer" / "agent.py"
    command = [sys.executable, "-S", "-E", str(agent)]
    os.environ["SHINKA_HEADLESS_COMMAND"] = shlex.join(command)
    os.environ["SHINKA_HEADLESS_TIMEOUT"] = "120"
    os.environ["EPLB_PROPOSER_SEED"] = str(seed)
    os.environ["EPLB_PYTHON_BIN"] = os.path.dirname(sys.executable)
    # A job whose node was lost has failed; started again it would keep the run waiting.
    os.environ["SBATCH_NO_REQUEUE"] = "1"
    random.seed(seed)
    np.random.seed(seed)


def _announce(settings: dict[str, Any], folder: Path, done: int) -> None:
    models, budget = settings["llm_models"], settings["max_api_costs"]
    if models == [OFFLINE_MODEL]:
        print("models: the offline proposer (no API key, or offline=true): no LLM, no network")
    else:
        print(f"models: {', '.join(models)}")
    limit = "none (evo_config.max_api_costs)" if budget is None else f"${budget:.2f}"
    print(f"budget: {limit}{'; the offline proposer is free' if models == [OFFLINE_MODEL] else ''}")
    print(f"results: {folder}", flush=True)
    if done:
        print(f"resuming after {done} generations", flush=True)


def _watch(settings: dict[str, Any], folder: Path, lock: Any) -> None:
    """Show the progress, and let no end of this process leave anything behind."""

    def end(reason: str, status: int = STOPPED) -> NoReturn:
        # Everything on disk is fit to be resumed at any moment, and ShinkaEvolve's own way out of
        # an interruption waits for evaluations and ends in a traceback.
        resume.end_evaluations(folder)
        print(f"\n{reason}; to go on: {_resume_command(folder)}", file=sys.stderr, flush=True)
        watcher.out.flush()
        os._exit(status)

    def why_silent() -> str | None:
        silent = silent_models(settings["llm_models"], settings["llm_kwargs"])
        if len(silent) < len(settings["llm_models"]):
            return None
        return "; ".join(f"{model}: {reason}" for model, reason in silent.items())

    watcher = Watcher(folder, settings["num_generations"], why_silent, end)

    def finish() -> None:
        run = watcher.finish()
        resume.end_evaluations(folder)
        if run.best is not None:
            score = f"combined score {run.best.score:.4f}, gen_{run.best.generation}"
            print(f"best program: {keep_best(run)} ({score})", file=watcher.out)
        lock.close()

    for number, name in ((signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")):
        signal.signal(number, lambda number, frame, name=name: end(name, 128 + number))
    atexit.register(finish)
    watcher.start()


def keep_best(run: Run) -> Path | None:
    """Make ``best/`` the folder of the best program, and return its ``main.py``.

    ShinkaEvolve keeps it too, but a run that was killed at the wrong moment has half a copy.
    """
    if run.best is None:
        return None
    program = run.folder / "best" / "main.py"
    if not program.is_file() or program.read_text(encoding="utf-8") != run.best.code:
        fresh = run.folder / ".best"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(run.folder / f"gen_{run.best.generation}", fresh)
        shutil.rmtree(run.folder / "best", ignore_errors=True)
        fresh.rename(run.folder / "best")
    return program


def _resume_command(folder: Path) -> str:
    way = shlex.quote(f"resume={folder}")
    if Path(sys.argv[0]).name == "shinka_launch":
        # It does not read the run's overrides again, as `run_evo.py` does.
        given = [word.replace("@_global_=", "=") for word in sys.argv[1:]]
        given = [word for word in given if not word.startswith("resume=")]
        return f"shinka_launch {shlex.join(given)} {way}"
    return f"{shlex.join(['python', sys.argv[0]])} {way}"

"""One run, from the overrides to the best program: `run_evo.py`, and `shinka_launch` by Hydra's
plugin. ShinkaEvolve itself is used as it is.

Covered: what must be ready before ShinkaEvolve starts, what people see meanwhile, and that no end
of the process leaves anything behind. Not covered: what may be set (`eplb.evolution.settings`).
"""

from __future__ import annotations

import errno
import logging
import os
import random
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NoReturn

import numpy as np
import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from shinka.core import ShinkaEvolveRunner

from eplb.common import DONE, UserError, write_text
from eplb.evolution import confirm as confirmation
from eplb.evolution import resume
from eplb.evolution.models import OFFLINE_MODEL, answering_models, silent_models
from eplb.evolution.progress import Watcher
from eplb.evolution.rundb import Run, read_so_far
from eplb.evolution.settings import check_start_program, compose_config, with_saved

STOPPED = 1
# What ShinkaEvolve's runner takes from the configuration: made into objects, and as it is.
CONFIGS = ("evo_config", "job_config", "db_config")
LIMITS = ("verbose", "max_evaluation_jobs", "max_proposal_jobs", "max_db_workers")


def run(overrides: Sequence[str]) -> int:
    """Evolve with ``overrides`` (``key=value``); 0 when done, 1 when it ended before.

    Raises `UserError` for the user's mistakes, all of them before a model proposes anything. The
    overrides are kept in the results folder, as Hydra does; ``resume=<folder>`` starts from them.
    """
    overrides = with_saved(overrides)
    config = compose_config(overrides)
    settings = config.evo_config
    folder = Path(settings.results_dir)
    _check_files(config, folder)
    _set_environment(config.seed, folder)
    settings.llm_models = answering_models(
        settings.llm_models, settings.llm_kwargs, requested=config.models is not None
    )
    OmegaConf.resolve(config)
    with resume.hold(folder):
        done = resume.prepare(folder, config.db_config.num_islands)
        # A resumed run shall not draw again what it drew at first.
        random.seed(config.seed + done)
        np.random.seed(config.seed + done)
        write_text(folder / ".hydra" / "overrides.yaml", yaml.safe_dump(list(overrides)))
        write_text(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(config))
        return _evolve(config, folder, done)


def _check_files(config: DictConfig, folder: Path) -> None:
    """Everything that a run needs from the disk, before models are asked."""
    if any(mark in str(folder) for mark in "#?%"):
        raise UserError(f"{folder}: ShinkaEvolve cannot read results in a folder with #, ? or %")
    check_start_program(Path(config.evo_config.init_program_path))
    if config.evo_config.job_type != "local":
        job = config.job_config
        for word in (folder, sys.executable, job.eval_program_path, *job.extra_cmd_args.values()):
            if shlex.quote(str(word)) != str(word):
                raise UserError(
                    f"Slurm jobs cannot use the path {word}: only letters, digits and ._-/ work; "
                    f"choose another folder (results_dir=…)"
                )
    done = read_so_far(folder).generations
    if done >= config.evo_config.num_generations:
        raise UserError(
            f"the run in {folder} is finished: it has its {done} generations; "
            f"for more of them add evo_config.num_generations={2 * done}"
        )


def _set_environment(seed: int, folder: Path) -> None:
    """What ShinkaEvolve, the offline proposer and Slurm's commands read."""
    agent = Path(__file__).resolve().parent.parent / "proposer" / "agent.py"
    os.environ |= {
        "SHINKA_HEADLESS_COMMAND": shlex.join([sys.executable, "-S", "-E", str(agent)]),
        "SHINKA_HEADLESS_TIMEOUT": "120",
        "EPLB_PROPOSER_SEED": str(seed),
        "EPLB_PYTHON_BIN": os.path.dirname(sys.executable),
        # Jobs are found by their name, `resume.end_evaluations`.
        "SBATCH_JOB_NAME": str(folder),
        # A job whose node was lost has failed; started again it would keep the run waiting.
        "SBATCH_NO_REQUEUE": "1",
    }


def _evolve(config: DictConfig, folder: Path, done: int) -> int:
    """Run ShinkaEvolve with everything ready, and say what came of it."""
    settings, again = config.evo_config, [*_command(), f"resume={folder}"]
    way_on = f"; to go on: {shlex.join(again)}"

    def end(reason: str, status: int = STOPPED) -> NoReturn:
        # Everything on disk is fit to be resumed at any moment, and ShinkaEvolve's own way out of
        # an interruption waits for evaluations and ends in a traceback.
        resume.end_evaluations(folder)
        start = watcher.run.seed
        watcher.warn(reason if start is not None and not start.correct else reason + way_on)
        os._exit(status)

    def why_silent() -> str | None:
        silent = silent_models(settings.llm_models, settings.llm_kwargs)
        reasons = "; ".join(f"{model}: {reason}" for model, reason in silent.items())
        return reasons if len(silent) == len(settings.llm_models) else None

    watcher = Watcher(folder, settings.num_generations, why_silent, end)
    for number, name in ((signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")):
        signal.signal(number, lambda number, frame, name=name: end(name, 128 + number))
    watcher.say(_announcement(settings, folder, done))
    watcher.start()
    try:
        with _quiet(config.verbose, folder):
            runner = ShinkaEvolveRunner(
                **{name: instantiate(config[name]) for name in CONFIGS},
                **{name: config[name] for name in LIMITS},
                banner_style="minimal",
            )
            runner.run()
    except Exception as error:  # noqa: BLE001 - ShinkaEvolve names no exceptions of its own
        logging.exception("the run ended")
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        log = folder / "evolution_run.log"
        end(f"{folder}: the disk is full" if full else f"ShinkaEvolve failed ({error}), see {log}")
    held = watcher.finish()
    resume.end_evaluations(folder)
    if runner.cost_limit_reached:
        budget = settings.max_api_costs
        more = shlex.join([*again, f"evo_config.max_api_costs={2 * budget:g}"])
        watcher.say(
            f"the budget of ${budget:.2f} is used up after {held.generations} of "
            f"{settings.num_generations} generations, which cost ${held.cost:.2f}; for more: {more}"
        )
    # What `end` tells whoever interrupts from here on.
    way_on = f"; to confirm it: {shlex.join(['python', '-m', confirmation.__name__, str(folder)])}"
    _conclude(watcher, held, config)
    return DONE if _did_all(runner) else STOPPED


def _announcement(settings: DictConfig, folder: Path, done: int) -> str:
    models, budget = settings.llm_models, settings.max_api_costs
    limit = "none (evo_config.max_api_costs)" if budget is None else f"${budget:.2f}"
    names = ", ".join(models)
    if models == [OFFLINE_MODEL]:
        names = "the offline proposer (no API key, or offline=true): no LLM, no network"
        limit += "; the offline proposer is free"
    lines = [f"models: {names}", f"budget: {limit}", f"results: {folder}"]
    return "\n".join([*lines, f"resuming after {done} generations"] if done else lines)


def _conclude(watcher: Watcher, held: Run, config: DictConfig) -> None:
    """Confirm the best program, keep it, and say what to type next."""
    if held.best is None:
        return
    folder, best, job = held.folder, held.best, config.job_config
    watcher.say(f"best on the known trace: gen_{best.generation}, {best.score:.4f}")
    if config.confirm:
        watcher.say(f"scoring the best programs on {confirmation.TRACES} traces drawn now")
        watcher.say(confirmation.confirm(held))
    else:
        resume.keep(folder, best)
    program = str(folder / "best" / "main.py")
    evaluate = ["python", job.eval_program_path, "--program_path", program]
    example = compose_config([]).job_config.extra_cmd_args
    for name, value in job.extra_cmd_args.items():
        if value != example.get(name):
            evaluate += [f"--{name}", str(value)]
    watcher.say(
        f"what happened: python -m eplb.report {shlex.quote(str(folder))}\n"
        f"the program: {program}; score it again with\n  {shlex.join(evaluate)}"
    )


def _command() -> list[str]:
    """How this run was started, without its settings."""
    name = Path(sys.argv[0]).name
    return [name, "variant=eplb_example"] if name == "shinka_launch" else ["python", sys.argv[0]]


@contextmanager
def _quiet(verbose: bool, folder: Path) -> Iterator[None]:
    """Keep ShinkaEvolve's tables and warnings out of the way of the progress line, in files."""
    if verbose:
        yield
        return
    logging.basicConfig(filename=folder / "evolution_run.log", level=logging.INFO)
    # A log that cannot be written would fill the terminal with tracebacks instead.
    logging.raiseExceptions = False
    with (
        open(folder / "tables.log", "a", encoding="utf-8") as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        yield


def _did_all(runner: ShinkaEvolveRunner) -> bool:
    """Whether the run ended because its budget or its generations were used up.

    ShinkaEvolve stops at the cost so far plus an estimate for the proposals on their way, and a
    generation whose proposals all failed is used up without a program.
    """
    generations = runner.evo_config.num_generations
    used_up = max(runner.completed_generations, runner.next_generation_to_submit) >= generations
    return used_up or runner.cost_limit_reached

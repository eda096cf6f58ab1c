"""`run_evo.py`: compose the same configuration as `shinka_launch`, and run ShinkaEvolve on it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import yaml
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from shinka.cli.launch import preprocess_args
from shinka.core import EvolutionConfig, ShinkaEvolveRunner

from eplb.common import DONE, UserError, write_text
from eplb.evolution.ready import STOPPED
from eplb.evolution.resolvers import output_dir

VARIANT = "variant=eplb_example"


def run(overrides: Sequence[str]) -> int:
    """Evolve with ``overrides`` (``key=value``, as for `shinka_launch`), and return 0 when done.

    Raises `UserError` for an override that does not exist. The overrides are kept in the results
    folder as Hydra does, and ``resume=<folder>`` starts from them.
    """
    overrides = with_saved(overrides)
    config = compose_config(overrides)
    folder = Path(config.output_dir)
    write_text(folder / ".hydra" / "overrides.yaml", yaml.safe_dump(list(overrides)))
    write_text(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    evolution = instantiate(config.evo_config)
    with _quiet(config.verbose, folder):
        runner = _runner(config, evolution)
        runner.run()
    return DONE if _did_all(runner) else STOPPED


def _did_all(runner: ShinkaEvolveRunner) -> bool:
    """Whether the run ended because its budget or its generations were used up.

    ShinkaEvolve stops at the cost so far plus an estimate for the proposals on their way, and a
    generation whose proposals all failed is used up without a program.
    """
    generations = runner.evo_config.num_generations
    used_up = max(runner.completed_generations, runner.next_generation_to_submit) >= generations
    return used_up or runner.cost_limit_reached


def _runner(config: DictConfig, evolution: EvolutionConfig) -> ShinkaEvolveRunner:
    return ShinkaEvolveRunner(
        evo_config=evolution,
        job_config=instantiate(config.job_config),
        db_config=instantiate(config.db_config),
        verbose=config.verbose,
        max_evaluation_jobs=config.max_evaluation_jobs,
        max_proposal_jobs=config.max_proposal_jobs,
        max_db_workers=config.max_db_workers,
        banner_style="minimal",
    )


@contextmanager
def _quiet(verbose: bool, folder: Path) -> Iterator[None]:
    """Keep ShinkaEvolve's tables and warnings out of the way of the progress line, in files."""
    if verbose:
        yield
        return
    logging.basicConfig(filename=folder / "evolution_run.log", level=logging.INFO)
    with open(folder / "tables.log", "a", encoding="utf-8") as log, redirect_stdout(log):
        yield


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The resolved configuration of the example with ``overrides``.

    `shinka_launch` finds ``configs/`` by the plugin in ``hydra_plugins/``, and so does this: a
    script's own folder is on Python's path.
    """
    arguments = preprocess_args([VARIANT, *overrides])
    try:
        with initialize_config_module("shinka.configs", version_base=None):
            config = compose("config", overrides=arguments)
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_reason(error, overrides)) from error
    return config


def _reason(error: Exception, overrides: Sequence[str]) -> str:
    """Our own words, where one of our resolvers raised them, else Hydra's."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        cause = cause.__cause__
    return f"configuration with {' '.join(overrides)}: {error}"


def with_saved(overrides: Sequence[str]) -> list[str]:
    """Put the overrides of the run to resume, if any, before the given ones."""
    given = dict(_split(override) for override in overrides)
    if given.get("resume") is None:
        return list(overrides)
    folder = Path(output_dir(given["resume"], ""))
    saved_file = folder / ".hydra" / "overrides.yaml"
    saved = yaml.safe_load(saved_file.read_text()) if saved_file.is_file() else []
    merged = dict(_split(override) for override in saved) | given | {"resume": str(folder)}
    merged.pop("variant", None)
    return [f"{key}={value}" for key, value in merged.items()]


def _split(override: str) -> tuple[str, str]:
    key, equals, value = override.partition("=")
    if not equals:
        raise UserError(f"{override}: overrides are written key=value, e.g. offline=true")
    return key.removesuffix("@_global_"), value

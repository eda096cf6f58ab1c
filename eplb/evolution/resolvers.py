"""What the configuration asks of the machine: ``${eplb.path:initial.py}`` and the like.

Imported in every Hydra application of the environment, hence nothing heavy at the top.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import ListConfig, OmegaConf

from eplb.common import UserError, project_file


def register_resolvers() -> None:
    """Make ``${eplb.…}`` known to OmegaConf; calling it twice does no harm."""
    resolvers = {
        "path": lambda name: str(project_file(name)),
        "models": _models,
        "meta_models": _meta_models,
        "objective": _objective,
        "sizes": lambda arguments: OmegaConf.create(_sizes(**_named_sizes(arguments))),
        "evaluation_jobs": lambda: max(1, (os.cpu_count() or 1) // 2),
        "slurm_partition": slurm_partition,
        "output_dir": output_dir,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(f"eplb.{name}", resolver, replace=True)


def _models(requested: Any, offline: bool) -> ListConfig:
    from eplb.evolution.models import choose_models

    return OmegaConf.create(choose_models(requested, offline))


def _meta_models(requested: Any, offline: bool) -> ListConfig | None:
    """The first model recommends; the offline proposer cannot follow a recommendation."""
    from eplb.evolution.models import OFFLINE_MODEL, choose_models

    first = choose_models(requested, offline)[0]
    return None if first == OFFLINE_MODEL else OmegaConf.create([first])


def _objective(scoring: str) -> str:
    """What a model is told of the combined score; `UserError` for a scoring that there is not."""
    from eplb.evaluation.scores import SCORINGS

    if scoring not in SCORINGS:
        raise UserError(f"scoring={scoring}: there is no such scoring; use {', '.join(SCORINGS)}")
    return SCORINGS[scoring].sentence


def _named_sizes(arguments: Any) -> dict[str, Any]:
    """Of the evaluation's arguments those that decide what programs are run on."""
    names = ("trace", "num_replicas", "num_groups", "num_nodes", "num_gpus")
    return {name: arguments[name] for name in names if arguments.get(name) is not None}


@cache
def _sizes(trace: str | None = None, **chosen: int) -> dict[str, int]:
    """The numbers of the task: the deployment, and the shape of the trace; read once."""
    from eplb.trace import read_trace

    path = trace or project_file("expert-load.json")
    read = read_trace(path)
    try:
        deployment = read.deployment(**chosen)
    except UserError as error:
        raise UserError(f"trace {path}: {error}") from error
    _, layers, experts = read.loads.shape
    return {
        **vars(deployment),
        "layers": layers,
        "experts": experts,
        "slots_per_gpu": deployment.slots_per_gpu,
        "experts_per_group": experts // deployment.num_groups,
    }


def slurm_partition() -> str:
    """The cluster's default partition; raises `UserError` where Slurm does not answer."""
    if shutil.which("sinfo") is None:
        raise UserError("cluster=slurm needs Slurm's commands, and sinfo is not on the PATH")
    answer = subprocess.run(
        ["sinfo", "--noheader", "--format=%P"], capture_output=True, text=True, timeout=30
    )
    if answer.returncode:
        raise UserError(f"cluster=slurm: sinfo failed: {answer.stderr.strip()}")
    for partition in answer.stdout.split():
        if partition.endswith("*"):
            return partition[:-1]
    raise UserError("this Slurm has no default partition; add job_config.partition=NAME")


def output_dir(resume: str | None, fresh: str) -> str:
    """The absolute results folder: that of the run to ``resume``, else ``fresh``."""
    if resume is None:
        return str(Path(fresh).absolute())
    folder = Path(resume).absolute()
    if not (folder / "programs.sqlite").exists() and not (folder / ".hydra").is_dir():
        raise UserError(f"resume={resume}: no run has its results there; give the folder printed")
    return str(folder)

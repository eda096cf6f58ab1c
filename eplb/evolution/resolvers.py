"""What the configuration asks of the machine: ``${eplb.path:initial.py}`` and the like.

Imported in every Hydra application of the environment, hence nothing heavy at the top. Not covered:
what users may set (`eplb.evolution.settings`).
"""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from eplb.common import UserError, project_file

if TYPE_CHECKING:
    from eplb.trace import Trace

OFFLINE_MODEL = "headless/eplb-proposer"
# As `shinka_launch` hands on its ``variant=eplb_example``.
VARIANT = "variant@_global_=eplb_example"


def register_resolvers() -> None:
    """Make ``${eplb.…}`` known to OmegaConf; calling it twice does no harm."""
    resolvers = {
        "path": lambda name: str(project_file(name)),
        "models": _models,
        "meta_models": _meta_models,
        "objective": _objective,
        "sizes": _sizes,
        "evaluation_jobs": lambda: max(1, (os.cpu_count() or 1) // 2),
        "slurm_partition": slurm_partition,
        "output_dir": output_dir,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(f"eplb.{name}", resolver, replace=True)


def _models(requested: Any, offline: bool) -> ListConfig:
    from eplb.evolution.models import choose_models

    return OmegaConf.create(choose_models(requested, offline))


def _meta_models(models: ListConfig) -> ListConfig | None:
    """The first model recommends; the offline proposer cannot follow a recommendation."""
    return None if models[0] == OFFLINE_MODEL else OmegaConf.create(list(models)[:1])


def _objective(scoring: str) -> str:
    """What a model is told of the combined score."""
    from eplb.evaluation.scores import SCORINGS

    return SCORINGS[scoring].sentence


def _sizes(arguments: DictConfig) -> DictConfig:
    """The numbers of the task, by the evaluation's arguments: deployment and shape of the trace."""
    path = arguments.get("trace") or str(project_file("expert-load.json"))
    read = _read(path)
    named = ("num_replicas", "num_groups", "num_nodes", "num_gpus", "rebalance_interval")
    read = read.stating(**{name: arguments.get(name) for name in named})
    try:
        deployment = read.deployment()
        read.interval()
    except UserError as error:
        raise UserError(f"trace {path}: {error}") from error
    _, layers, experts = read.loads.shape
    shape = {"layers": layers, "experts": experts, "slots_per_gpu": deployment.slots_per_gpu}
    per_group = experts // deployment.num_groups
    return OmegaConf.create({**vars(deployment), **shape, "experts_per_group": per_group})


@cache
def _read(path: str) -> Trace:
    from eplb.trace import read_trace

    return read_trace(path)


def slurm_partition() -> str:
    """The cluster's default partition; raises `UserError` where Slurm names none."""
    command = ["sinfo", "--noheader", "--format=%P"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except FileNotFoundError as error:
        raise UserError("cluster=slurm needs Slurm's commands; sinfo is not on the PATH") from error
    default = [name[:-1] for name in listed.stdout.split() if name.endswith("*")]
    if not default:
        why = " ".join(listed.stderr.split()) or "sinfo marks none"
        raise UserError(f"Slurm has no default partition ({why}); add job_config.partition=NAME")
    return default[0]


def output_dir(resume: str | None, fresh: str) -> str:
    """The absolute results folder: that of the run to ``resume``, else ``fresh``."""
    if resume is None:
        return str(Path(fresh).absolute())
    folder = Path(resume).absolute()
    if not (folder / "programs.sqlite").exists() and not (folder / ".hydra").is_dir():
        raise UserError(f"resume={resume}: no run has its results there; give the folder printed")
    return str(folder)

"""vLLM: programs, placements made offline and recordings with the released package.

vLLM's policies are classes with the class method ``rebalance_experts``, listed in
``vllm.distributed.eplb.policy.EPLB_POLICIES`` under fixed names. So `register`, which vLLM's
plug-in mechanism calls in every process, puts ours in the place of ``"default"`` where one of these
names something: ``EPLB_VLLM_PROGRAM`` (a program plans each window), ``EPLB_VLLM_PLACEMENT``
(placement files, one per model), ``EPLB_VLLM_RECORD`` (a folder for the windows).

Checked against vllm 0.33.0, which calls a policy on every rank with the same numbers, once per
model, first of all when it profiles, and with -1 in the map of a server that changed its size.
The program runs inside vLLM's processes, without the sandbox: by naming it the operator trusts it.
Its answers are checked all the same.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch

from eplb.common import UserError
from eplb.engines import registry
from eplb.engines.choice import choose, greedy_rules, keep_slots
from eplb.engines.model import EnginePlacement
from eplb.engines.vllm_recorder import Recorder, is_window
from eplb.placement import Deployment, validate

PROGRAM, PLACEMENT, RECORD = "EPLB_VLLM_PROGRAM", "EPLB_VLLM_PLACEMENT", "EPLB_VLLM_RECORD"

# A child of vLLM's logger, so that it speaks with vLLM's format and level.
logger = logging.getLogger("vllm.plugins.eplb")


def register() -> None:
    """Put our policy in the place of vLLM's, if one of the variables asks for it.

    Raises `UserError`, and so keeps vLLM from starting, for files that cannot be read: ranks that
    fell back while others did not would mix up the experts.
    """
    program, placement, record = (os.environ.get(name) for name in (PROGRAM, PLACEMENT, RECORD))
    if not (program or placement or record):
        return
    if program and placement:
        raise UserError(f"{PROGRAM} and {PLACEMENT} both say where experts go; unset one of them")
    from vllm.distributed.eplb.policy import EPLB_POLICIES

    own = EPLB_POLICIES["default"]
    if issubclass(own, Policy):
        return
    planner = None
    if program:
        planner = Program(Path(program))
    elif placement:
        planner = Placements([Path(name) for name in placement.split(os.pathsep) if name])
    recorder = Recorder(Path(record)) if record else None
    EPLB_POLICIES["default"] = policy_of(own, planner, recorder)


def policy_of(
    own: type, planner: Program | Placements | None, recorder: Recorder | None = None
) -> type[Policy]:
    """A policy class on top of ``own``, vLLM's, which answers where the planner does not."""
    return type("OfflinePolicy", (Policy, own), {"planner": planner, "recorder": recorder})


class Policy:
    """vLLM's interface on one side, a planner and a recorder on the other."""

    planner = recorder = None

    @classmethod
    def rebalance_experts(
        cls,
        weight: torch.Tensor,
        num_replicas: int,
        num_groups: int,
        num_nodes: int,
        num_ranks: int,
        old_global_expert_indices: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``phy2log`` [layers, num_replicas] int64 for the load ``weight`` [layers, experts].

        old_global_expert_indices: [layers, slots], the placement in force; experts that stay on
        their GPU keep their slot. Raises `InvalidPlacement` for an answer that breaks the rules.
        """
        load = weight.cpu().numpy()
        deployment = Deployment(num_replicas, num_groups, num_nodes, num_ranks)
        if cls.recorder is not None:
            cls.recorder.add(load, deployment)
        phy2log = cls.planner.plan(load, deployment) if cls.planner is not None else None
        old = old_global_expert_indices
        if phy2log is None:
            return super().rebalance_experts(weight, *astuple(deployment), old)
        # After a change of ranks or slots there is nothing to keep in place.
        if old is not None and old.shape == phy2log.shape:
            phy2log = keep_slots(phy2log, old.cpu().numpy(), num_ranks)
        return torch.from_numpy(phy2log)


class Program:
    """A program of this project, loaded into this process; the greedy rules stand by.

    Programs may remember windows, so each model has a copy of its own, and so have the calls that
    bring no window.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._copies: dict[tuple[int, ...] | None, Callable] = {None: load_program(path)}

    def plan(self, load: np.ndarray, deployment: Deployment) -> np.ndarray:
        """The program's answer, or a greedy rule's where `choose` finds that better on ``load``."""
        model = load.shape if is_window(load) else None
        if model not in self._copies:
            self._copies[model] = load_program(self._path)
        weight, (layers, experts) = torch.from_numpy(load).float(), load.shape
        answer = self._copies[model](weight, *astuple(deployment))
        maps = (torch.as_tensor(part).cpu().numpy() for part in answer)
        shape = {"num_layers": layers, "num_experts": experts, "deployment": deployment}
        planned = validate(*maps, **shape)
        if model is None:
            return planned.phy2log
        plans = {self._path.name: planned}
        plans |= {name: rule(load) for name, rule in greedy_rules(deployment).items()}
        choice = choose(plans, load[None], deployment)
        logger.info("model of %d layers: %s on the window", layers, choice)
        return choice.best.phy2log


def load_program(path: Path) -> Callable:
    """``run_eplb`` of a fresh copy of the program, or what public programs call it."""
    if not path.is_file():
        raise UserError(f"{PROGRAM}={path} is not a file; give the path of a program")
    spec = importlib.util.spec_from_file_location(f"eplb_program_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("run_eplb", "rebalance_experts"):
        if callable(getattr(module, name, None)):
            return getattr(module, name)
    raise UserError(
        f"{path} defines no run_eplb or rebalance_experts; give a program such as those in "
        f"programs/"
    )


class Placements:
    """Placement files of any format: for each model the first that fits its sizes."""

    def __init__(self, paths: list[Path]) -> None:
        self._files = {path: registry.read_placement(path) for path in paths}
        self._told: set[tuple[int, ...]] = set()

    def plan(self, load: np.ndarray, deployment: Deployment) -> np.ndarray | None:
        """The placement made for a model of these sizes; None, and an error logged, without."""
        sizes = (*load.shape, deployment.num_replicas, deployment.num_gpus)
        rows = {path: _rows_for(placement, sizes) for path, placement in self._files.items()}
        path = next((path for path, fit in rows.items() if not isinstance(fit, str)), None)
        if sizes not in self._told:
            self._told.add(sizes)
            if path is None:
                faults = "; ".join(f"{path} {fault}" for path, fault in rows.items())
                logger.error(
                    "%s: %s; vLLM's own policy places this model. Plan for %d layers, %d experts, "
                    "%d slots and %d ranks",
                    *(PLACEMENT, faults, *sizes),
                )
            else:
                logger.info("a model of %d layers is placed by %s", sizes[0], path)
        return rows.get(path)


def _rows_for(placement: EnginePlacement, sizes: tuple[int, ...]) -> np.ndarray | str:
    """``phy2log`` [layers, slots] for a model of layers, experts, slots and ranks, or the misfit.

    Formats that number all layers hold the place of dense ones with experts in order, and vLLM
    has no rows for those.
    """
    layers, *_, ranks = sizes
    rows = placement.phy2log
    if placement.every_layer:
        rows = np.repeat(rows, layers, axis=0)
    if len(rows) != layers:
        in_order = np.arange(rows.shape[1]) % placement.num_experts
        rows = rows[(rows != in_order).any(axis=1)]
    made_for = (placement.num_experts, rows.shape[1], placement.num_gpus or ranks)
    for name, has, wants in zip(("experts", "slots", "ranks"), made_for, sizes[1:], strict=True):
        if has != wants:
            return f"is for {has} {name}, the model has {wants}"
    if len(rows) != layers:
        return f"places {len(placement.layers)} layers, the model has {layers}"
    return rows

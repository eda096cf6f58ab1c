"""vLLM: a program of this project as the engine's online balancing policy.

vLLM has no placement file. Its policies are classes with the class method ``rebalance_experts``
(``vllm.distributed.eplb.policy.AbstractEplbPolicy``), listed in ``EPLB_POLICIES``; the names in
that list are fixed, so a program takes the place of ``"default"``. Every vLLM process must do so,
which is what vLLM's plugins are for: installing this project registers `register` as one, and it
does nothing unless ``EPLB_VLLM_PROGRAM`` names a program.

Checked against vllm 0.33.0. The program runs inside vLLM's processes, without the sandbox: by
naming it the operator trusts it. Its answers are checked all the same.
"""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from eplb.common import UserError
from eplb.placement import Deployment, validate

VARIABLE = "EPLB_VLLM_PROGRAM"


def register() -> None:
    """Make the program that ``EPLB_VLLM_PROGRAM`` names vLLM's policy; without one do nothing."""
    program = os.environ.get(VARIABLE)
    if not program:
        return
    from vllm.distributed.eplb.policy import EPLB_POLICIES, AbstractEplbPolicy

    policy = policy_of(Path(program))
    EPLB_POLICIES["default"] = type("ProgramEplbPolicy", (policy, AbstractEplbPolicy), {})


def policy_of(program: Path) -> type[ProgramPolicy]:
    """A policy class of its own for the program, which is loaded into this process."""
    return type("LoadedPolicy", (ProgramPolicy,), {"program": _load(program)})


def _load(program: Path) -> ModuleType:
    if not program.is_file():
        raise UserError(f"{VARIABLE}={program} is not a file; give the path of a program")
    spec = importlib.util.spec_from_file_location(f"eplb_program_{program.stem}", program)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "run_eplb"):
        raise UserError(f"{program} defines no run_eplb; give a program such as those in programs/")
    return module


class ProgramPolicy:
    """vLLM's interface on one side, a program's on the other."""

    program: ModuleType

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
        weight = weight.float().cpu()
        answer = cls.program.run_eplb(weight, num_replicas, num_groups, num_nodes, num_ranks)
        placement = validate(
            *(torch.as_tensor(part).cpu().numpy() for part in answer),
            num_layers=weight.shape[0],
            num_experts=weight.shape[1],
            deployment=Deployment(num_replicas, num_groups, num_nodes, num_ranks),
        )
        phy2log = placement.phy2log
        if old_global_expert_indices is not None:
            old = old_global_expert_indices.cpu().numpy()
            # After a change of ranks or slots there is nothing to keep in place.
            if old.shape == phy2log.shape:
                phy2log = keep_slots(phy2log, old, num_ranks)
        return torch.from_numpy(phy2log)


def keep_slots(phy2log: np.ndarray, old: np.ndarray, num_gpus: int) -> np.ndarray:
    """``phy2log`` reordered within each GPU so that experts which stay keep their ``old`` slots.

    phy2log, old: [layers, slots]. The other experts fill the remaining slots in their order.
    """
    by_gpu = (-1, phy2log.shape[1] // num_gpus)
    kept = [
        _keep_on_gpu(new, previous)
        for new, previous in zip(
            phy2log.reshape(by_gpu).tolist(), old.reshape(by_gpu).tolist(), strict=True
        )
    ]
    return np.array(kept, dtype=np.int64).reshape(phy2log.shape)


def _keep_on_gpu(new: list[int], old: list[int]) -> list[int]:
    waiting = Counter(new)
    slots: list[int | None] = []
    for expert in old:
        stays = waiting[expert] > 0
        waiting[expert] -= stays
        slots.append(expert if stays else None)
    rest = iter([expert for expert in waiting for _ in range(waiting[expert])])
    return [next(rest) if expert is None else expert for expert in slots]

"""What programs are compared on: workloads and deployments, ours and recorded ones.

Covered: the leaderboard's scenarios, and the same ones with other numbers of spare slots. Not
covered: what is measured on them (`eplb.bench.leaderboard`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from eplb.common import UserError, positive_int
from eplb.placement import Deployment, fewest_slots
from eplb.throughput.profile import DEFAULT, Serving
from eplb.trace import History, Trace, read_trace
from eplb.workload_model import PRESETS, WorkloadModel, generate


@dataclass(frozen=True)
class Scenario:
    """A workload on a deployment.

    hardware: what tokens per second are told for, as `eplb.throughput.profile.Serving.of` takes it
    """

    name: str
    workload: WorkloadModel | Trace
    deployment: Deployment
    hardware: tuple[str, ...] = (DEFAULT,)

    @cached_property
    def servings(self) -> list[Serving]:
        """How the workload's model is served, under even and lp dispatch."""
        top_k = self.workload.header.top_k
        return [Serving.of(self.hardware, rule, top_k) for rule in ("even", "lp")]

    def histories(self, seeds: Iterable[int]) -> dict[str, History]:
        """The windows of the workload of each seed, by its name; a recorded one is what it is."""
        if isinstance(self.workload, Trace):
            return {"as recorded": History.of(self.workload)}
        workloads = {f"seed {seed}": replace(self.workload, seed=seed) for seed in seeds}
        return {name: History.of(generate(each)) for name, each in workloads.items()}

    def with_spare(self, spare: int) -> Scenario:
        """The same with ``spare`` more slots on each GPU than experts need; raises `UserError`."""
        model, gpus = self.workload, self.deployment.num_gpus
        experts = model.loads.shape[2] if isinstance(model, Trace) else model.experts
        slots = fewest_slots(experts, gpus) + spare * gpus
        deployment = replace(self.deployment, num_replicas=slots)
        try:
            deployment.check(experts)
        except UserError as error:
            raise UserError(f"--spare_slots {spare} on {self.name}: {error}") from error
        return replace(self, name=f"{self.name}, {spare} spare", deployment=deployment)


def _of(title: str, preset: str, expert: int, *sizes: int) -> Scenario:
    """A preset on the deployment of ``sizes``, or on its own.

    expert: weights of one of the three matrices of an expert, of a byte each
    """
    workload = PRESETS[preset]
    deployment = Deployment(*sizes) if sizes else workload.deployment
    hardware = (DEFAULT, f"bytes_per_expert={3 * expert}")
    return Scenario(f"{title} EP{deployment.num_gpus}", workload, deployment, hardware)


SCENARIOS = (
    _of("DeepSeek-V3", "deepseek-v3", 7168 * 2048, 288, 8, 1, 8),
    _of("DeepSeek-V3", "deepseek-v3", 7168 * 2048),
    _of("DeepSeek-V3", "deepseek-v3", 7168 * 2048, 288, 8, 18, 144),
    _of("Qwen3-235B", "qwen3-235b", 4096 * 1536, 144, 1, 1, 8),
    _of("Qwen3-235B", "qwen3-235b", 4096 * 1536),
    _of("Kimi-K2", "kimi-k2", 7168 * 2048, 416, 1, 2, 16),
    _of("Kimi-K2", "kimi-k2", 7168 * 2048),
    _of("GLM-4.5", "glm-4.5", 5120 * 1536),
    _of("gpt-oss", "gpt-oss-120b", 2880 * 2880),
    _of("Qwen3-Next", "qwen3-next", 2048 * 512),
    _of("MiniMax-M2", "minimax-m2", 3072 * 1536),
    _of("Llama 4", "llama4-maverick", 5120 * 8192),
    _of("bursty", "bursty", 7168 * 2048),
    _of("stationary", "stationary", 7168 * 2048),
    _of("requests", "requests", 7168 * 2048),
)


def recorded(file: str, *numbers: str) -> Scenario:
    """The scenario that ``--trace`` describes; raises `UserError`."""
    try:
        deployment = Deployment(*map(positive_int, numbers))
        trace = read_trace(Path(file))
        History.of(trace)
        deployment.check(trace.loads.shape[2])
    except (argparse.ArgumentTypeError, UserError) as error:
        raise UserError(f"--trace {file} {' '.join(numbers)}: {error}") from error
    return Scenario(f"{Path(file).name} EP{deployment.num_gpus}", trace, deployment)


def chosen(names: list[str], scenarios: list[Scenario]) -> list[Scenario]:
    """The scenarios whose names contain any of ``names``."""
    found = [s for s in scenarios if any(name.lower() in s.name.lower() for name in names)]
    if not found:
        every = "; ".join(scenario.name for scenario in scenarios)
        raise UserError(f"--scenarios {' '.join(names)} matches none; there are: {every}")
    return found

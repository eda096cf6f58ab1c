"""What programs are compared on: workloads and deployments, ours and recorded ones.

Covered: the leaderboard's scenarios, and the same ones with other numbers of spare slots. Not
covered: what is measured on them (`eplb.bench.leaderboard`).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from eplb.common import UserError, positive_int
from eplb.placement import Deployment, fewest_slots
from eplb.throughput.profile import DEFAULT
from eplb.trace import History, Trace, read_trace
from eplb.workload_model import PRESETS, generate


@dataclass(frozen=True)
class Scenario:
    """A workload on a deployment.

    workload: the name of a preset in `eplb.workload_model`, or a recorded one
    hardware: what tokens per second are told for, of `eplb.throughput.profile`
    """

    title: str
    workload: str | Trace
    deployment: Deployment
    hardware: tuple[str, ...] = (DEFAULT,)

    @property
    def name(self) -> str:
        return f"{self.title} EP{self.deployment.num_gpus}"

    def history(self, seed: int) -> History:
        """The windows of the workload; ``seed`` is that of a generated one."""
        trace = self.workload
        if isinstance(trace, str):
            trace = generate(replace(PRESETS[trace], seed=seed))
        return History.of(trace)

    def with_spare(self, spare: int, experts: int) -> Scenario:
        """The same with ``spare`` more slots on each GPU than ``experts`` need."""
        gpus = self.deployment.num_gpus
        slots = fewest_slots(experts, gpus) + spare * gpus
        deployment = replace(self.deployment, num_replicas=slots)
        deployment.check(experts)
        return replace(self, deployment=deployment)


# Experts of three matrices, of a byte a weight; the preset's own are those of DeepSeek-V3.
QWEN3 = (DEFAULT, f"bytes_per_expert={3 * 4096 * 1536}")
GLM = (DEFAULT, f"bytes_per_expert={3 * 5120 * 1536}")
SCENARIOS = (
    Scenario("DeepSeek-V3", "deepseek-v3", Deployment(288, 8, 1, 8)),
    Scenario("DeepSeek-V3", "deepseek-v3", Deployment(288, 8, 4, 32)),
    Scenario("DeepSeek-V3", "deepseek-v3", Deployment(288, 8, 18, 144)),
    Scenario("Qwen3-235B", "qwen3-235b", Deployment(144, 1, 1, 8), QWEN3),
    Scenario("Qwen3-235B", "qwen3-235b", Deployment(160, 1, 4, 32), QWEN3),
    Scenario("Kimi-K2", "kimi-k2", Deployment(416, 1, 2, 16)),
    Scenario("Kimi-K2", "kimi-k2", Deployment(448, 1, 8, 64)),
    Scenario("GLM-4.5", "glm-4.5", Deployment(192, 1, 4, 32), GLM),
    Scenario("bursty", "bursty", Deployment(288, 8, 4, 32)),
    Scenario("stationary", "stationary", Deployment(288, 8, 4, 32)),
    Scenario("requests", "requests", Deployment(288, 8, 4, 32)),
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
    return Scenario(Path(file).name, trace, deployment)


def chosen(names: list[str], scenarios: list[Scenario]) -> list[Scenario]:
    """The scenarios whose names contain any of ``names``."""
    found = [s for s in scenarios if any(name.lower() in s.name.lower() for name in names)]
    if not found:
        every = "; ".join(scenario.name for scenario in scenarios)
        raise UserError(f"--scenarios {' '.join(names)} matches none; there are: {every}")
    return found

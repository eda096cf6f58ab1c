"""What to deploy, tried out on a recording: spare slots, intervals of rebalancing and EP sizes.

The recording is cut into windows. A program sees them in order, as a deployed balancer does; the
first half is the past, and every choice is judged on the second half, where a placement serves
windows that come after all that it was made from. Covered: the trial. Not covered: what it says
to a person (`eplb.planning.advice_report`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eplb.common import UserError
from eplb.engines.model import ExpertStatistics
from eplb.evaluation.measure import ProgramRun
from eplb.loads import balancedness, migrated_experts
from eplb.placement import Deployment, ExpertPlacement
from eplb.planning.moves import economical, relabel
from eplb.planning.planner import ask, check_sizes
from eplb.sandbox.runner import Sandbox
from eplb.throughput.dispatch import gpu_loads
from eplb.throughput.profile import Profile, Serving
from eplb.throughput.worth import Worth, moving_seconds, worth

WINDOWS = 16
SPARE_SLOTS = range(9)
# Fewer held-out windows than this say little of how often to rebalance, and fewer tokens for an
# expert in a window are mostly chance: a hundred are off by a tenth.
ENOUGH_WINDOWS = 4
ENOUGH_TOKENS = 100


@dataclass(frozen=True)
class Past:
    """A recording in windows.

    windows: [W, layers, experts] tokens, of the layers that ever have any
    known: how many of them are the past; the others are held out
    iterations: of each window; the oldest that make no whole window are left out
    """

    statistics: ExpertStatistics
    windows: np.ndarray
    known: int
    iterations: int

    @classmethod
    def of(cls, statistics: ExpertStatistics, live: np.ndarray) -> Past:
        """``live`` [layers] says which layers have tokens, in this recording or another."""
        loads = statistics.loads[:, live]
        if len(loads) < 2:
            raise UserError("the recording has one iteration; two are needed, better a hundred")
        count = min(WINDOWS, len(loads))
        iterations = len(loads) // count
        used = loads[len(loads) - count * iterations :]
        windows = used.reshape(count, iterations, *loads.shape[1:]).sum(axis=1)
        return cls(statistics, windows, count // 2, iterations)

    @property
    def held_out(self) -> np.ndarray:
        return self.windows[self.known :]

    @property
    def warnings(self) -> list[str]:
        """Why the recording may be too short to say."""
        windows, tokens = len(self.held_out), float(self.windows.mean())
        reasons = {
            f"how often to rebalance: {windows} windows are held out, and {ENOUGH_WINDOWS} are the "
            f"least; record more iterations": windows < ENOUGH_WINDOWS,
            f"much: an expert has {tokens:.0f} tokens in a window, which is mostly chance; record "
            f"for longer": tokens < ENOUGH_TOKENS,
        }
        return [f"the recording is too short to say {why}" for why in reasons if reasons[why]]


@dataclass(frozen=True)
class Trial:
    """One choice in one phase, judged on the held-out windows.

    every: windows from one rebalancing to the next; 0 for a placement that stays
    steps: the same in engine steps
    gigabytes: of expert weights on each GPU
    balancedness: mean over the windows, under the dispatch of the trial
    moved, stall: experts fetched, over all GPUs, and seconds that it takes, per rebalancing
    """

    phase: str
    deployment: Deployment
    spare: int
    every: int
    steps: int
    gigabytes: float
    balancedness: float
    worth: Worth
    moved: float
    stall: float

    @property
    def tokens_per_gpu(self) -> float:
        """Tokens per second and GPU, if the layers of experts were all that takes time."""
        return self.worth.tokens_per_second / self.deployment.num_gpus


def deployment_of(experts: int, gpus: int, spare: int, gpus_per_node: int, groups: int):
    """``spare`` slots on each of ``gpus`` beyond those that the experts need."""
    nodes = gpus // gpus_per_node if gpus % gpus_per_node == 0 else 1
    slots = (-(-experts // gpus) + spare) * gpus
    deployment = Deployment(slots, groups, nodes, gpus)
    check_sizes(deployment, experts)
    return deployment


def try_out(
    past: Past,
    run: ProgramRun,
    deployment: Deployment,
    spare: int,
    serving: Serving,
    phase: str,
    steps_per_iteration: int,
) -> Iterator[Trial]:
    """A trial of ``run``'s placements in ``phase`` for every interval that the windows allow."""
    held_out = past.held_out
    intervals, every = [0], len(held_out) // 2
    while every >= 1:
        intervals.append(every)
        every //= 2
    steps = past.iterations * steps_per_iteration
    profile = replace(serving.profiles[phase], steps_per_window=steps)
    alone = Serving({phase: profile}, serving.dispatch)
    for every in intervals:
        placements, times = schedule(past, run, deployment, alone, every or len(held_out))
        (value,) = worth([profile], held_out, placements, deployment, serving.dispatch, times)
        moves = [pair for pair, plan in zip(zip(placements, placements[1:]), times[1:]) if plan]
        count = max(len(moves), 1)
        moved = sum(migrated_experts(*pair, deployment.num_gpus) for pair in moves)
        moving = sum(moving_seconds(profile, *pair, deployment) for pair in moves)
        pairs = zip(held_out, placements, strict=True)
        loads = np.stack([gpu_loads(*pair, deployment, serving.dispatch) for pair in pairs])
        yield Trial(
            phase=phase,
            deployment=deployment,
            spare=spare,
            every=every,
            steps=every * steps,
            gigabytes=deployment.slots_per_gpu * held_out.shape[1] * profile.bytes_per_expert / 1e9,
            balancedness=float(np.nanmean(balancedness(loads))),
            worth=value,
            moved=moved * held_out.shape[1] / count,
            stall=(moving + sum(times)) / count,
        )


def schedule(
    past: Past, run: ProgramRun, deployment: Deployment, serving: Serving, every: int
) -> tuple[list[ExpertPlacement], list[float]]:
    """The placement of every held-out window, and the seconds of planning before it.

    The last plan of the past is there at the start; then there is a new one ``every`` so many
    windows, numbered so that least is fetched, in the layers where it pays.
    """
    placements, times = [run.placements[past.known - 1]], [0.0]
    for index in range(past.known + 1, len(past.windows)):
        before, seconds = placements[-1], 0.0
        if (index - past.known) % every == 0:
            rehearsed, plan = run.placements[index - 2], run.placements[index - 1]
            seconds = float(run.seconds[0, index - 1])
            after = relabel(before, plan, deployment)
            load = past.windows[index - 1]
            before = economical(before, after, rehearsed, load, deployment, serving)
        placements.append(before)
        times.append(seconds)
    return placements, times


def worth_if_it_stays(
    past: Past, run: ProgramRun, served: Past, deployment: Deployment, profile: Profile, rule: str
) -> Worth:
    """What the last of ``run``'s plans for ``past`` is worth on what is held out of ``served``."""
    placements = [run.placements[past.known - 1]] * len(served.held_out)
    (value,) = worth([profile], served.held_out, placements, deployment, rule)
    return value


def advise(
    pasts: dict[str, Past],
    ep_sizes: list[int],
    program: Path,
    serving: Serving,
    *,
    gpus_per_node: int,
    num_groups: int,
    steps_per_iteration: int,
    sandbox: Sandbox,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[list[Trial], dict[tuple[str, Deployment], ProgramRun]]:
    """Every trial in every phase of ``pasts``, and the program's runs by phase and deployment."""
    trials: list[Trial] = []
    runs: dict[tuple[str, Deployment], ProgramRun] = {}
    experts = next(iter(pasts.values())).windows.shape[2]
    cases = [(gpus, spare) for gpus in ep_sizes for spare in SPARE_SLOTS]
    for number, (gpus, spare) in enumerate(cases):
        deployment = deployment_of(experts, gpus, spare, gpus_per_node, num_groups)
        asked: dict[int, ProgramRun] = {}
        for phase, past in pasts.items():
            if id(past) not in asked:
                asked[id(past)] = ask(sandbox, program, past.windows[:-1], deployment)
            run = runs[phase, deployment] = asked[id(past)]
            setting = (deployment, spare, serving, phase, steps_per_iteration)
            trials.extend(try_out(past, run, *setting))
        progress((number + 1) / len(cases))
    return trials, runs

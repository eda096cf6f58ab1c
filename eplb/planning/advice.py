"""What to deploy, tried out on a recording: spare slots, intervals of rebalancing and EP sizes.

The recording is cut into windows. A program sees them in order, as a deployed balancer does; the
first half is the past, and every choice is judged on the second half, where a placement serves
windows that come after all that it was made from. Covered: the trial. Not covered: what it says
to a person (`eplb.planning.advice_report`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from eplb.common import UserError
from eplb.engines.model import ExpertStatistics
from eplb.evaluation.measure import ProgramRun
from eplb.loads import balancedness, migrated_experts
from eplb.placement import Deployment, ExpertPlacement
from eplb.planning.moves import economical, relabel
from eplb.planning.planner import check_sizes
from eplb.throughput.dispatch import gpu_loads
from eplb.throughput.profile import Serving
from eplb.throughput.worth import Worth, worth
from eplb.trace import Trace

WINDOWS = 16
SPARE_SLOTS = range(9)
# Fewer held-out windows than this say little of how often to rebalance, and fewer tokens for an
# expert in a window are mostly chance: a hundred are off by a tenth.
ENOUGH_WINDOWS = 4
ENOUGH_TOKENS = 100


@dataclass(frozen=True, eq=False)
class Past:
    """A recording in windows.

    windows: [W, layers, experts] tokens, of the layers that ever have any
    iterations: of each window; the oldest that make no whole window are left out
    stop: number of the first iteration after the recording
    """

    windows: np.ndarray
    iterations: int
    stop: int

    @classmethod
    def of(cls, statistics: ExpertStatistics, live: np.ndarray) -> Past:
        """``live`` [layers] says which layers have tokens, in this recording or another."""
        loads = statistics.loads[:, live]
        if len(loads) < 2:
            raise UserError("the recording has one iteration; two are needed, better a hundred")
        count = min(WINDOWS, len(loads))
        iterations = len(loads) // count
        windows = Trace(loads[-count * iterations :]).windows(iterations)
        return cls(windows, iterations, statistics.iterations.stop)

    @property
    def known(self) -> int:
        """How many of the windows are the past; the others are held out."""
        return len(self.windows) // 2

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
    moved, stall: experts fetched, over all GPUs, and seconds lost, per rebalancing
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


def deployment_of(
    experts: int, gpus: int, spare: int, gpus_per_node: int, groups: int
) -> Deployment:
    """``spare`` slots on each of ``gpus`` beyond those that the experts need."""
    nodes = gpus // gpus_per_node if gpus % gpus_per_node == 0 else 1
    slots = (-(-experts // gpus) + spare) * gpus
    deployment = Deployment(slots, groups, nodes, gpus)
    check_sizes(deployment, experts)
    return deployment


class Study:
    """Trials of one program, which plans every deployment once for each recording.

    pasts: by phase of serving; two phases may share one
    serving: of all phases; a window lasts as long as it did in the recording
    ask: what the program does with windows, in order, on a deployment
    """

    def __init__(
        self,
        pasts: dict[str, Past],
        serving: Serving,
        steps_per_iteration: int,
        ask: Callable[[np.ndarray, Deployment], ProgramRun],
    ) -> None:
        self.pasts, self.rule, self._ask = pasts, serving.dispatch, ask
        self.profiles = {
            phase: replace(profile, steps_per_window=pasts[phase].iterations * steps_per_iteration)
            for phase, profile in serving.profiles.items()
        }
        self._runs: dict[tuple[Past, Deployment], ProgramRun] = {}

    def run(self, phase: str, deployment: Deployment) -> ProgramRun:
        past = self.pasts[phase]
        if (past, deployment) not in self._runs:
            self._runs[past, deployment] = self._ask(past.windows[:-1], deployment)
        return self._runs[past, deployment]

    def trials(self, phase: str, deployment: Deployment) -> Iterator[Trial]:
        """A trial for every interval that the windows allow, halved from one to the next."""
        held_out, profile = self.pasts[phase].held_out, self.profiles[phase]
        windows, layers, experts = held_out.shape
        slots, gpus = deployment.slots_per_gpu, deployment.num_gpus
        for every in (0, *(windows >> halvings for halvings in range(1, windows.bit_length()))):
            placements, times = self.schedule(phase, deployment, every or windows)
            (value,) = worth([profile], held_out, placements, deployment, self.rule, times)
            pairs = zip(held_out, placements, strict=True)
            loads = np.stack([gpu_loads(*pair, deployment, self.rule) for pair in pairs])
            moves = [migrated_experts(*pair, gpus) for pair in zip(placements, placements[1:])]
            rebalancings = max((windows - 1) // (every or windows), 1)
            yield Trial(
                phase=phase,
                deployment=deployment,
                spare=slots - -(-experts // gpus),
                every=every,
                steps=every * profile.steps_per_window,
                gigabytes=slots * layers * profile.bytes_per_expert / 1e9,
                balancedness=float(np.nanmean(balancedness(loads))),
                worth=value,
                moved=sum(moves) * layers / rebalancings,
                stall=(value.moving + value.planning) / rebalancings,
            )

    def schedule(
        self, phase: str, deployment: Deployment, every: int
    ) -> tuple[list[ExpertPlacement], list[float]]:
        """The placement of every held-out window, and the seconds of planning before it.

        The last plan of the past is there at the start; then there is a new one ``every`` so many
        windows, numbered so that least is fetched, in the layers where it pays.
        """
        past, run = self.pasts[phase], self.run(phase, deployment)
        serving = Serving({phase: self.profiles[phase]}, self.rule)
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

    def kept(self, planned: str, served: str, deployment: Deployment, rule: str) -> float:
        """The share that a plan for one phase keeps if it stays and serves another, or the same."""
        held_out = self.pasts[served].held_out
        stays = [self.run(planned, deployment).placements[self.pasts[planned].known - 1]]
        placements = stays * len(held_out)
        (value,) = worth([self.profiles[served]], held_out, placements, deployment, rule)
        return value.kept

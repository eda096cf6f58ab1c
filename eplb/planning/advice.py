"""What to deploy, tried out on a recording: spare slots, intervals of rebalancing and EP sizes.

The recording is cut into windows. A program sees them in order, as a deployed balancer does; the
first half is the past, and every choice is judged on the second half, where a placement serves
windows that come after all that it was made from. Covered: the trial. Not covered: what it says
to a person (`eplb.planning.advice_report`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from eplb.evaluation.measure import ProgramRun
from eplb.evaluation.scores import PlacementScores, mean
from eplb.placement import Deployment, ExpertPlacement, fewest_slots
from eplb.planning.moves import economical, relabel
from eplb.planning.planner import check_sizes
from eplb.throughput.profile import Serving
from eplb.throughput.worth import Worth
from eplb.trace import History, Trace, TraceHeader

WINDOWS = 16
SPARE_SLOTS = range(9)
# Fewer held-out windows than this say little of how often to rebalance, and fewer tokens for an
# expert in a window are mostly chance: a hundred are off by a tenth.
ENOUGH_WINDOWS = 4
ENOUGH_TOKENS = 100


@dataclass(frozen=True)
class Trial:
    """One choice in one phase, judged on the held-out windows.

    every: windows from one rebalancing to the next; 0 for a placement that stays
    steps: the same in engine steps
    gigabytes: of expert weights on each GPU
    balancedness: mean over the windows, under the dispatch of the trial
    moved, stall: experts fetched, over all GPUs, and seconds lost, per rebalancing
    """

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

    @property
    def burden(self) -> tuple[float, float]:
        """What decides between choices that are as good: spare slots, then rebalancings."""
        return self.spare, -(self.every or math.inf)


def in_windows(loads: np.ndarray) -> History:
    """``loads`` [iterations, layers, experts] in up to `WINDOWS` windows of as many iterations.

    The oldest iterations that make no whole window are left out. Raises `UserError` for too few.
    """
    interval = max(len(loads) // WINDOWS, 1)
    header = TraceHeader(rebalance_interval=interval)
    return History.of(Trace(loads[-WINDOWS * interval :], header))


def held_out(history: History) -> History:
    """The second half of the windows, after the one that the first of them is placed after."""
    return History(history.records[len(history.records) // 2 - 1 :])


def doubts(history: History) -> list[str]:
    """Why a recording may be too short to say."""
    windows, tokens = len(held_out(history).seen), float(history.windows.mean())
    reasons = {
        f"how often to rebalance: {windows} windows are held out, and {ENOUGH_WINDOWS} are the "
        f"least; record more iterations": windows < ENOUGH_WINDOWS,
        f"much: an expert has {tokens:.0f} tokens in a window, which is mostly chance; record "
        f"for longer": tokens < ENOUGH_TOKENS,
    }
    return [f"the recording is too short to say {why}" for why in reasons if reasons[why]]


def deployment_of(
    experts: int, gpus: int, spare: int, gpus_per_node: int, groups: int
) -> Deployment:
    """``spare`` slots on each of ``gpus`` beyond those that the experts need."""
    nodes = gpus // gpus_per_node if gpus % gpus_per_node == 0 else 1
    slots = fewest_slots(experts, gpus) + spare * gpus
    deployment = Deployment(slots, groups, nodes, gpus)
    check_sizes(deployment, experts)
    return deployment


class Study:
    """Trials of one program, which plans every deployment once for each recording.

    histories: by phase of serving; two phases may share one
    serving: of all phases; a window lasts as long as it did in the recording
    ask: what the program does with windows, in order, on a deployment
    """

    def __init__(
        self,
        histories: dict[str, History],
        serving: Serving,
        steps_per_iteration: int,
        ask: Callable[[np.ndarray, Deployment], ProgramRun],
    ) -> None:
        self.histories, self.rule, self._ask = histories, serving.dispatch, ask
        self.held_out = {phase: held_out(history) for phase, history in histories.items()}
        self.servings = {}
        for phase, history in histories.items():
            steps = history.records.shape[1] * steps_per_iteration
            profile = replace(serving.profiles[phase], steps_per_window=steps)
            self.servings[phase] = replace(serving, profiles={phase: profile})
        self._runs: dict[tuple[int, Deployment], ProgramRun] = {}

    def trials(self, phase: str, deployment: Deployment) -> Iterator[Trial]:
        """A trial for every interval that the windows allow, halved from one to the next."""
        windows, layers, experts = self.held_out[phase].seen.shape
        profile, slots = self.servings[phase].profiles[phase], deployment.slots_per_gpu
        for every in (0, *(windows >> halvings for halvings in range(1, windows.bit_length()))):
            placements, times = self.schedule(phase, deployment, every or windows)
            scores = self._scores(phase, placements, deployment, self.rule)
            worth = scores.worth(times)[phase]
            rebalancings = max((windows - 1) // (every or windows), 1)
            yield Trial(
                deployment=deployment,
                spare=slots - -(-experts // deployment.num_gpus),
                every=every,
                steps=every * profile.steps_per_window,
                gigabytes=slots * layers * profile.bytes_per_expert / 1e9,
                balancedness=mean(scores.balancedness_score),
                worth=worth,
                moved=scores.migrated_experts.sum() * layers / rebalancings,
                stall=(worth.moving + worth.planning) / rebalancings,
            )

    def schedule(
        self, phase: str, deployment: Deployment, every: int
    ) -> tuple[list[ExpertPlacement], list[float]]:
        """The placement of every held-out window, and the seconds of planning before it.

        The last plan of the past is there at the start; then there is a new one ``every`` so many
        windows, numbered so that least is fetched, in the layers where it pays.
        """
        (plans, seconds), seen = self._plans(phase, deployment), self.held_out[phase].seen
        placements, times = plans[:1], [0.0]
        for window in range(1, len(seen)):
            placement, planning = placements[-1], 0.0
            if window % every == 0:
                planning = float(seconds[window])
                after = relabel(placement, plans[window], deployment)
                setting = (plans[window - 1], seen[window], deployment, self.servings[phase])
                placement = economical(placement, after, *setting)
            placements.append(placement)
            times.append(planning)
        return placements, times

    def kept(self, planned: str, served: str, deployment: Deployment, rule: str) -> float:
        """The share that a plan for one phase keeps if it stays and serves another, or the same."""
        plans, _ = self._plans(planned, deployment)
        stays = plans[:1] * len(self.held_out[served].seen)
        return self._scores(served, stays, deployment, rule).worth()[served].kept

    def _plans(
        self, phase: str, deployment: Deployment
    ) -> tuple[list[ExpertPlacement], np.ndarray]:
        """The plan made before every held-out window, and the seconds that each took."""
        history, count = self.histories[phase], len(self.held_out[phase].seen)
        key = (id(history), deployment)
        if key not in self._runs:
            self._runs[key] = self._ask(history.seen, deployment)
        run = self._runs[key]
        return run.placements[-count:], run.seconds[0, -count:]

    def _scores(
        self, phase: str, placements: list[ExpertPlacement], deployment: Deployment, rule: str
    ) -> PlacementScores:
        """Of one placement for each held-out window."""
        serving = replace(self.servings[phase], dispatch=rule)
        return PlacementScores(placements, self.held_out[phase], deployment, serving)

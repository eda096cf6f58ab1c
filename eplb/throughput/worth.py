"""What placements are worth: the share of the ideal tokens per second that is kept, and why.

A period is the window that a placement serves. It takes, of S steps and over the layers l,

    T = S * Σ_l max_g t(slots on g, rows on g) + planning + moving + fixed stall

with t of `eplb.throughput.kernels` and rows = tokens of the step * top_k * the share of the layer's
load on g. ``kept`` is T of perfect balance, no spare slots and no rearrangement over T; ``gain`` is
T without EPLB, experts in order and no spare slots, over T. Asynchronous rebalancing stops nothing:
the old placement serves on for as long as planning and moving take.

Not covered: attention, the exchange of tokens and what overlaps with it; links that are busy with
tokens, or with several GPUs that fetch from one; and bursts: a window's steps are taken as alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from eplb import loads
from eplb.loads import experts_in_order, fetched_experts
from eplb.placement import Deployment, ExpertPlacement, fewest_slots
from eplb.throughput.dispatch import slot_loads
from eplb.throughput.kernels import kernel
from eplb.throughput.profile import Profile, Rebalancing

REASONS = ("imbalance", "spare_slots", "moving", "planning")


@dataclass(frozen=True)
class Worth:
    """Seconds over all periods, in layers of experts alone.

    perfect: with perfect balance, no spare slots and no rearrangement
    spare_slots, imbalance, moving, planning: what each adds; moving has the fixed stalls
    without: of the same steps without EPLB
    tokens: served
    """

    perfect: float
    spare_slots: float
    imbalance: float
    moving: float
    planning: float
    without: float
    tokens: float

    def __add__(self, other: Worth) -> Worth:
        names = (field.name for field in fields(self))
        return Worth(*(getattr(self, name) + getattr(other, name) for name in names))

    @property
    def seconds(self) -> float:
        return self.perfect + self.spare_slots + self.imbalance + self.moving + self.planning

    @property
    def kept(self) -> float:
        return self.perfect / self.seconds

    @property
    def gain(self) -> float:
        return self.without / self.seconds

    @property
    def lost(self) -> dict[str, float]:
        """The share of the time that each reason takes; with ``kept`` they add up to one."""
        return {name: getattr(self, name) / self.seconds for name in REASONS}

    @property
    def tokens_per_second(self) -> float:
        """If the layers of experts were all that takes time."""
        return self.tokens / self.seconds


def worth(
    profiles: Iterable[Profile],
    windows: np.ndarray,
    placements: list[ExpertPlacement],
    deployment: Deployment,
    rule: str = "even",
    planning: float | Sequence[float] = 0.0,
    by_slot: Sequence[np.ndarray] | None = None,
) -> list[Worth]:
    """What ``placements``, one for each of ``windows``, are worth under each profile.

    windows: [W, layers, experts] tokens per expert in the windows that are served
    rule: of `eplb.throughput.dispatch`
    planning: seconds of the plan before every window, or before each
    by_slot: [layers, slots] tokens of each window by ``rule``, where they are known already

    The first placement is there from the start, so that nothing moves before it.
    """
    if by_slot is None:
        by_slot = [slot_loads(*pair, deployment, rule) for pair in zip(windows, placements)]
    plans = np.broadcast_to(planning, len(by_slot))
    served = list(zip(windows, placements, by_slot, plans, strict=True))
    return [_over_time(profile, served, deployment, rule) for profile in profiles]


def _over_time(profile: Profile, served: list, deployment: Deployment, rule: str) -> Worth:
    steps = _Steps(profile, deployment.num_gpus)
    periods, before = [], None
    for window, placement, by_slot, plan in served:
        period = _undisturbed(steps, window, by_slot)
        # Of moving and of planning, in seconds.
        costs = np.array([0.0, plan])
        if before is not None:
            costs[0] = moving_seconds(profile, before, placement, deployment)
        if profile.rebalancing is Rebalancing.asynchronous:
            stale = period.seconds
            if before is not None:
                stale = layer_seconds(profile, window, before, deployment, rule).sum()
            late = min(1.0, costs.sum() / stale)
            costs *= late * (stale - period.seconds) / max(costs.sum(), 1e-12)
        moving, planned = costs.tolist()
        periods.append(replace(period, moving=moving, planning=planned))
        before = placement
    return sum(periods[1:], periods[0])


def _undisturbed(steps: _Steps, window: np.ndarray, by_slot: np.ndarray) -> Worth:
    """A period without what the rearrangement before it takes."""
    layers, experts = window.shape
    perfect = steps.balanced(experts / steps.gpus, window, window)
    evened = steps.balanced(by_slot.shape[1] // steps.gpus, window, by_slot)
    plain = experts_in_order(layers, experts, fewest_slots(experts, steps.gpus))
    return Worth(
        perfect=perfect,
        spare_slots=evened - perfect,
        imbalance=float(steps.hottest(window, by_slot).sum()) - evened,
        moving=0.0,
        planning=0.0,
        without=float(steps.hottest(window, loads.slot_loads(window, plain)).sum()),
        tokens=float(steps.profile.steps_per_window * steps.tokens),
    )


@dataclass(frozen=True)
class _Steps:
    """All steps of a window under a profile, on so many GPUs."""

    profile: Profile
    gpus: int

    @property
    def tokens(self) -> int:
        """Of one step, over all GPUs."""
        return self.profile.tokens_per_gpu * self.gpus

    def hottest(self, window: np.ndarray, by_slot: np.ndarray) -> np.ndarray:
        """[layers] seconds, for tokens ``by_slot`` [layers, slots] of ``window``."""
        share = _share(window, by_slot)
        rows = self.tokens * self.profile.top_k * loads.sum_over_gpus(share, self.gpus)
        active = loads.sum_over_gpus(self._active(share), self.gpus)
        slots = by_slot.shape[1] // self.gpus
        return self._seconds(self._layer_ms(slots, active, rows).max(axis=1))

    def balanced(self, slots: float, window: np.ndarray, by_slot: np.ndarray) -> float:
        """The same where every GPU has ``slots`` slots and the mean of what they have to do."""
        active = self._active(_share(window, by_slot)).sum(axis=1) / self.gpus
        rows = self.tokens * self.profile.top_k / self.gpus
        return float(self._seconds(self._layer_ms(slots, active, rows)).sum())

    def _active(self, share: np.ndarray) -> np.ndarray:
        """The chance that at least one token of a step goes to each slot of ``share``."""
        picked = np.minimum(self.profile.top_k * share, 1 - 1e-12)
        return -np.expm1(self.tokens * np.log1p(-picked))

    def _layer_ms(self, slots: float, active: np.ndarray, rows) -> np.ndarray:
        model = kernel(self.profile.kernel)
        size = self.profile.bytes_per_expert / model.bytes_per_expert
        return model.ms(slots, active, rows, self.tokens, size)

    def _seconds(self, layer_ms: np.ndarray) -> np.ndarray:
        return self.profile.steps_per_window * layer_ms / 1e3


def _share(window: np.ndarray, by_slot: np.ndarray) -> np.ndarray:
    """[layers, slots] the share of its layer's load; even where the layer has no tokens."""
    total = window.sum(axis=1, keepdims=True)
    even = np.full(by_slot.shape, 1.0 / by_slot.shape[1])
    return np.divide(by_slot, total, out=even, where=total > 0)


def layer_seconds(
    profile: Profile,
    window: np.ndarray,
    placement: ExpertPlacement,
    deployment: Deployment,
    rule: str = "even",
) -> np.ndarray:
    """[layers] seconds that a window's steps spend in each layer, rearrangements apart."""
    by_slot = slot_loads(window, placement, deployment, rule)
    return _Steps(profile, deployment.num_gpus).hottest(window, by_slot)


def moving_seconds(
    profile: Profile, before: ExpertPlacement, after: ExpertPlacement, deployment: Deployment
) -> float:
    """Seconds until the GPU that fetches most has what it did not hold ``before``; 0 for nothing.

    An expert comes from a GPU of the same node where one held it.
    """
    by_layer = fetching_seconds(profile, before, after, deployment)
    return float(by_layer.sum(axis=0).max()) + profile.fixed_stall * bool(by_layer.any())


def fetching_seconds(
    profile: Profile, before: ExpertPlacement, after: ExpertPlacement, deployment: Deployment
) -> np.ndarray:
    """[layers, num_gpus] seconds that each GPU takes to fetch a layer's experts."""
    gpus, nodes = deployment.num_gpus, deployment.num_nodes
    within, between = fetched_experts(before, after, gpus, nodes)
    slowness = within / profile.link_within_node + between / profile.link_between_nodes
    return profile.bytes_per_expert / 1e9 * slowness

"""What a placement does to a load: loads per slot and GPU, balancedness, migrations.

A replica of an expert carries ``load / logcnt``. Everything here is numpy in float64. With it, the
placement of no balancer at all: experts in order. Not covered: engines that split an expert's
tokens otherwise (`eplb.throughput.dispatch`), and expert groups whose number is no power of two.
"""

from __future__ import annotations

import numpy as np

from eplb.placement import ExpertPlacement


def slot_loads(load: np.ndarray, placement: ExpertPlacement) -> np.ndarray:
    """[..., layers, slots] float64: tokens per slot, from ``load`` [..., layers, experts]."""
    per_replica = load / placement.logcnt
    slots = np.broadcast_to(placement.phy2log, (*load.shape[:-1], placement.phy2log.shape[-1]))
    return np.take_along_axis(per_replica, slots, axis=-1)


def gpu_loads(load: np.ndarray, placement: ExpertPlacement, num_gpus: int) -> np.ndarray:
    """[..., layers, num_gpus] float64: tokens per GPU, from ``load`` [..., layers, experts]."""
    return sum_over_gpus(slot_loads(load, placement), num_gpus)


def sum_over_gpus(by_slot: np.ndarray, num_gpus: int) -> np.ndarray:
    """[..., num_gpus] sums over the slots of each GPU, from ``by_slot`` [..., slots]."""
    return by_slot.reshape(*by_slot.shape[:-1], num_gpus, -1).sum(axis=-1)


def balancedness(loads: np.ndarray) -> np.ndarray:
    """[...] Σ_layers mean / Σ_layers max of ``loads`` [..., layers, units]; 1.0 is perfect.

    The step takes as long as its layers one after the other and each layer as long as its hottest
    unit, hence sums over layers and not a mean of ratios. A layer without tokens adds nothing to
    either sum. No token in any layer is NaN: there was nothing to balance, well or badly.
    """
    hottest = loads.max(axis=-1).sum(axis=-1)
    mean = loads.mean(axis=-1).sum(axis=-1)
    nothing = np.full(np.shape(hottest), np.nan)
    return np.divide(mean, hottest, out=nothing, where=hottest > 0)[()]


def migrated_experts(before: ExpertPlacement, after: ExpertPlacement, num_gpus: int) -> float:
    """Experts per layer that some GPU must fetch, since it did not hold them ``before``."""
    within, between = fetched_experts(before, after, num_gpus, 1)
    return float((within + between).sum()) / len(within)


def fetched_experts(
    before: ExpertPlacement, after: ExpertPlacement, num_gpus: int, num_nodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """[layers, num_gpus] twice: experts that each GPU fetches from its own node, and from others.

    An expert comes from the same node where a GPU there held it ``before``.
    """
    held = before.holders(num_gpus)
    needed = after.holders(num_gpus) & ~held
    by_node = held.reshape(*held.shape[:2], num_nodes, -1)
    near = by_node.any(axis=3).repeat(num_gpus // num_nodes, axis=2)
    return (needed & near).sum(axis=1), (needed & ~near).sum(axis=1)


def expert_groups(load: np.ndarray) -> int:
    """The number of groups of consecutive experts that run hot together, as ``load`` shows; or 1.

    load: [..., layers, experts]. Groups are halved as long as the halves' mean logarithmic loads
    are further apart than experts' own loads explain, by five standard deviations over all layers
    (a nested analysis of variance), and as eight experts are left in them, too few to tell by
    else. Routing that is limited to a few groups a token shows so.
    """
    load = load.reshape(-1, *load.shape[-2:]).sum(axis=0)
    live = load[load.any(axis=1)]
    heat = np.log(live / live.mean(axis=1, keepdims=True) + 0.1)
    groups, many = 1, 2
    while heat.size and heat.shape[1] % (8 * many) == 0:
        parts = heat.reshape(len(heat), many, -1)
        means = parts.mean(axis=2)
        apart = np.square(means[:, ::2] - means[:, 1::2])
        by_chance = 2 * parts.var(axis=2, ddof=1).mean() / parts.shape[2]
        if apart.mean() > by_chance * (1 + 5 * np.sqrt(2 / apart.size)):
            groups = many
        many *= 2
    return groups


def experts_in_order(num_layers: int, num_experts: int, num_slots: int) -> ExpertPlacement:
    """Where experts are without a balancer: slot i holds expert i mod ``num_experts``."""
    row = np.arange(num_slots) % num_experts
    return ExpertPlacement.from_phy2log(np.tile(row, (num_layers, 1)), num_experts)

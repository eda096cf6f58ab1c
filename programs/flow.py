"""Placements for engines that split an expert's tokens anew in every step (`--dispatch lp`).

There the hottest GPU has the most that any set of GPUs alone holds, over their number. So experts
with replicas lie along a ring of GPUs, each beginning where another ends: what is too much flows on
from GPU to GPU. Further spare slots are further laps, in other strides. The rest is dealt in rounds
of one expert group, the heaviest to the lightest GPU. Where no slot is spare, all is as in
`programs/balanced.py`, whose forecast this is: one by one where rounds leave too much, then swaps.

Sources: https://github.com/deepseek-ai/LPLB for the dispatch, and those of `programs/balanced.py`.
Lineage: docs/lineage.md. Not covered: nodes.
"""

import numpy as np
import torch

# EVOLVE-BLOCK-START
# How much less a window counts in the forecast than the one after it, and how much smaller errors
# must be than those of the third, the usual choice.
DECAYS = np.array([0.0, 0.3, 0.5, 0.7, 0.85, 0.95])
DOUBTS = np.array([0.06, 0.03, 0.0, 0.03, 0.06, 0.09])
# Windows remembered, patterns of deviation heeded, and windows that show them well.
MEMORY, PATTERNS, TRUSTED = 48, 3, 5
# The power by which claims fall, and what it gains where spare slots double. Replicas above so many
# times a slot's mean load claim it all, above this part of a GPU's are no part of the ring.
POWER, MORE, HOT, FULL = 1.2, 0.4, 4, 0.8
# Strides of further laps; slots of a GPU from which on groups have rounds of their own; unevenness
# that dealing one by one may mend, and after one window with such rounds.
GOLDEN, ROUNDS, UNEVEN = 0.382, 5, (0.01, 0.2)


def sort_labelled(value, label):
    """Sort each row of positive float32 values in place; return their labels in that order.

    label: int32 below the number of columns, has a value's lowest bits meanwhile, which are lost.
    """
    bits = (value.shape[1] - 1).bit_length()
    number = value.view(np.int32)
    number &= -(1 << bits)
    number |= label
    number.sort(axis=1)
    label = number & ((1 << bits) - 1)
    number -= label
    return label


def replicate(load, spare, power, cool):
    """Give spare replicas to the largest claims load / replicas**power of ``load`` [rows, experts].

    Those above ``cool`` [rows, 1] claim it all. load: ascending. Returns counts, in its shape.
    """
    rows, experts = load.shape
    hot = min(experts, spare)
    # Of the claims the k-th hottest can win spare / k: ascending load and descending divisor of
    # each, so that of claims too close to tell apart the hotter expert and the earlier one win.
    chances = spare // np.arange(hot, 0, -1)
    rank = np.repeat(np.arange(experts - hot, experts), chances)
    number = np.repeat(chances.cumsum(), chances) - np.arange(len(rank))
    claim = load.take(rank, axis=1) / number.astype(np.float32)
    claim /= np.where(claim > cool, 1, number ** (power - 1)).astype(np.float32)
    chosen = sort_labelled(claim, np.arange(len(rank), dtype=np.int32))[:, len(rank) - spare :]
    place = rank.take(chosen) + np.arange(0, load.size, experts)[:, None]
    return 1 + np.bincount(place.ravel(), minlength=load.size).reshape(load.shape)


def ring(share, count, num_gpus):
    """Lay experts with replicas along a ring of GPUs: each begins on the GPU where another ends.

    share, count: [rows, experts], a replica's load and their number, hottest experts last. In turn
    come the hottest and the least hot of those left. Returns the GPUs of first replicas, -1 where
    free, and of spare ones [rows, experts + spare], and cells and numbers of these [rows, spare].
    """
    rows, experts = count.shape
    spare = int(count[0].sum()) - experts
    hot = (count > 1).sum(axis=1, dtype=np.int32)[:, None]
    turn = np.arange(int(hot.max()), dtype=np.int32)
    column = experts - 1 - np.where(turn % 2, hot - 1 - turn // 2, turn // 2)
    cell = (column + np.arange(0, count.size, experts)[:, None]).clip(0, count.size - 1)
    more = np.where(turn < hot, count.take(cell) - 1, 0)
    end = more.cumsum(axis=1)
    spares = np.repeat(cell.ravel(), more.ravel()).reshape(rows, spare)
    begin = np.repeat((end - more).ravel(), more.ravel()).reshape(rows, spare)
    # Laps have different strides, so that all GPUs are near to each other.
    laps = -(-spare // num_gpus)
    far = np.flatnonzero(np.gcd(np.arange(num_gpus + 1), num_gpus) == 1)
    step = far[(np.arange(laps) * GOLDEN * len(far)).astype(np.int32) % len(far), None]
    gpu = (np.arange(num_gpus) * step % num_gpus).astype(np.int32).ravel()
    # A first replica meets the first spare one of the next expert, in its own lap.
    lap = (end - 1) // num_gpus
    fits = (turn < hot) & (lap < (experts + spare) // num_gpus - laps)
    fits &= share.take(cell) <= FULL / num_gpus * (share * count).sum(axis=1, keepdims=True)
    first = np.full(count.shape, -1)
    first.ravel()[cell[fits]] = gpu[(lap * num_gpus + end % num_gpus)[fits]]
    gpu = np.concatenate((first, np.broadcast_to(gpu[:spare], spares.shape)), axis=1)
    return gpu, spares, np.arange(1, spare + 1) - begin


class History:
    """The last windows, each layer scaled to a mean load of one, and what they teach.

    loads: [MEMORY, layers * experts] float32; a row is one window, the oldest is overwritten
    product: [MEMORY, MEMORY], mean products of the loads of two windows
    steps: squared distances of the last windows to those before
    errors: [decays], squared errors of each decay's forecasts in units of the steps, fading
    """

    def __init__(self, layers, experts):
        self.shape = (layers, experts)
        # Written, not just reserved: or later calls would wait for the pages.
        self.loads = np.full((MEMORY, layers * experts), 0, dtype=np.float32)
        self.product = np.zeros((MEMORY, MEMORY))
        self.windows, self.steps, self.forecasts = 0, [], None
        self.errors = np.zeros(len(DECAYS))

    def add(self, load, patterns):
        """Return a forecast, and patterns of deviation from it: [1 + patterns, layers, experts]."""
        row = self.windows % MEMORY
        new, product = self.loads[row], self.product
        scale = self.shape[1] / np.maximum(load.sum(axis=1, keepdims=True), 1e-30)
        np.multiply(load, scale, out=new.reshape(self.shape))
        self.windows += 1
        # NumPy's product of such a size may start threads.
        known, last = torch.from_numpy(self.loads[: self.windows]), torch.from_numpy(new)
        dot = torch.mv(known, last).numpy() / len(new)
        product[row, : len(dot)] = product[: len(dot), row] = dot
        square = np.diagonal(product)
        distance = square + square[row] - 2 * product[row]
        if self.windows > 1:
            self.steps = [*self.steps, distance[row - 1]][-16:]
        steps = sorted(self.steps) or [0.0]
        usual = steps[len(steps) // 2 if len(steps) > 2 else 0]
        # Windows that correlate by less than a half, at first 0.72, are not alike in any case.
        alike = distance <= min(2 * usual, (square[row] - 1) * min(1, 0.28 * self.windows))
        if self.windows > 1 and alike[row - 1] and self.steps[-1] > 0:
            # How far the last forecasts were from the window that came.
            error = (self.forecasts @ product - 2 * product[row]) * self.forecasts
            self.errors = 0.9 * self.errors + (error.sum(axis=1) + square[row]) / self.steps[-1]
        alike[row] = True
        age = (row - np.arange(MEMORY)) % MEMORY
        # The oldest is overwritten before the forecast can be judged.
        weight = (alike & (age < min(self.windows, MEMORY - 1))) * DECAYS[:, None] ** age
        self.forecasts = weight / weight.sum(axis=1, keepdims=True)
        weight = self.forecasts[(self.errors + DOUBTS).argmin(), : len(dot)]
        used, mix = weight > 1e-4, weight[None]
        if patterns and (windows := np.count_nonzero(used)) > 1:
            trust = used * min(1, windows / TRUSTED) / np.sqrt(windows)
            apart = (np.eye(len(dot)) - weight[:, None]) * trust
            gram = apart.T @ product[: len(dot), : len(dot)] @ apart
            main = np.linalg.eigh(gram)[1].T[-min(patterns, windows - 1) :]
            mix = np.vstack((weight, main @ apart.T))
        return (torch.from_numpy(mix.astype(np.float32)) @ known).numpy().reshape(-1, *self.shape)


history = History(0, 0)


def deal(load, group, gpu, num_gpus):
    """Deal in rounds, each time the lightest GPU the heaviest replica left; fill ``gpu``.

    load, group, gpu: [rows, slots], a replica's load and group, and its GPU, -1 where free
    GPUs with most room begin. Other rounds are of one group each, whose loads may rise together.
    Returns the loads of GPUs, ascending, [rows, gpus].
    """
    rows, slots = load.shape
    start, rank = np.arange(rows)[:, None], np.arange(num_gpus, dtype=np.int32)
    place, cells = (gpu + 1 + start * (num_gpus + 1)).ravel(), rows * (num_gpus + 1)
    total = np.bincount(place, load.ravel(), cells).reshape(rows, -1)[:, 1:].astype(np.float32)
    room = slots // num_gpus - np.bincount(place, minlength=cells).reshape(rows, -1)[:, 1:]
    most, least, start = int(room.max()), int(room.min()), start * slots
    free = np.where(gpu < 0, load, np.float32(0))
    cell = sort_labelled(free, np.arange(slots, dtype=np.int32))[:, ::-1] + start
    load = np.ascontiguousarray(free[:, ::-1])
    # Who must wait is so much heavier for every round.
    wait = np.float32(4 * (total.max() + most * load.max()))
    total += wait * (most - room)
    pack, begin = sort_labelled(total, np.broadcast_to(rank, total.shape)), start
    for _ in range(most - least):
        takes = total < wait / 2
        item = (begin + rank)[takes]
        gpu.ravel()[cell.take(item)] = pack[takes]
        total[takes] += load.take(item)
        total[~takes] -= wait
        pack, begin = sort_labelled(total, pack), begin + takes.sum(axis=1, keepdims=True)
    item = (begin + np.arange(least * num_gpus)).astype(np.int32)
    item += group.take(cell.take(item)) * np.int32(load.size)
    item.sort(axis=1)
    item = np.sort((item % np.int32(load.size)).reshape(rows, least, num_gpus), axis=2)
    heavy = load.take(item)
    # Rounds of widely different loads come first, so that the others can make them good.
    order = (heavy[:, :, -1] - heavy[:, :, 0]).argsort(axis=1).T
    item, heavy = item[np.arange(rows), order], heavy[np.arange(rows), order]
    for each, more in zip(cell.take(item), heavy):
        gpu.ravel()[each] = pack
        total += more
        pack = sort_labelled(total, pack)
    return total


def deal_singly(load, num_packs):
    """Deal as `deal`, but the heaviest item left to the pack that is to be the lightest.

    That is, if all room left took the mean of the items left: light ones are for those with heavy.
    load: [rows, items], ascending. Returns the items' packs, and the packs' loads [rows, packs].
    """
    rows, items = load.shape
    start = np.arange(0, rows * num_packs, num_packs)
    total = np.zeros((rows, num_packs), dtype=np.float32)
    room = np.full(total.shape, items // num_packs, dtype=np.float32)
    mean = load.cumsum(axis=1) / np.arange(1, items + 1, dtype=np.float32)
    packs = np.empty((items, rows), dtype=np.int64)
    for item in range(items - 1, -1, -1):
        pack = packs[item] = (total + room * mean[:, item, None]).argmin(axis=1) + start
        left = room.ravel()[pack] - 1
        room.ravel()[pack] = np.where(left > 0, left, np.inf)
        total.ravel()[pack] += load[:, item]
    return (packs - start).T, total


def mend(load, gpu, total, uneven):
    """Deal one by one where rounds left the hottest GPU ``uneven`` of the mean above the least.

    load, gpu: [rows, experts], ascending, and the GPUs to mend; total: [rows, gpus], their loads
    """
    experts, num_gpus = load.shape[1], total.shape[1]
    mean, hottest = total.mean(axis=1), total.max(axis=1)
    # No GPU with the heaviest expert can have less.
    least = load[:, -1] + load[:, : experts // num_gpus - 1].sum(axis=1)
    row = np.flatnonzero(hottest > np.maximum(least, mean) + uneven * mean)
    if len(row):
        packs, total = deal_singly(load[row], num_gpus)
        better = total.max(axis=1) < hottest[row]
        gpu[row[better]] = packs[better]


def spread(load):
    """Let pairs of packs swap, in place, the items of a round that lower the sum of squares most.

    load: [1 + columns, capacity, packs, rows] float32, a number for every item, and its loads
    """
    packs, rows = load.shape[2:]
    for stride in (16, 8, 4, 2, 1):
        pairs = packs // (2 * stride)
        both = load[:, :, : 2 * stride * pairs].reshape(*load.shape[:2], pairs, 2, stride, rows)
        one, other = both[:, :, :, 0], both[:, :, :, 1]
        apart = one - other
        # With D between the packs and d between the items, swapping gains 4 d (D - d).
        gain = ((apart[1:].sum(axis=1, keepdims=True) - apart[1:]) * apart[1:]).sum(axis=0)
        apart *= gain >= np.maximum(gain.max(axis=0), 1e-7)
        one -= apart
        other += apart


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Decide which expert every slot holds, from the last window's loads [layers, experts].

    Returns ``phy2log`` [layers, num_replicas], the expert in each slot; ``log2phy`` [layers,
    experts, X], the slots of each expert, then -1; ``logcnt`` [layers, experts], its replicas.
    """
    global history
    layers, experts = weight.shape
    if history.shape != (layers, experts):
        history = History(layers, experts)
    spare, capacity = num_replicas - experts, num_replicas // num_gpus
    columns = history.add(weight.to("cpu", torch.float32).numpy(), 0 if spare else PATTERNS)
    load = np.maximum(columns[0], 1e-30)  # Zero has no mantissa to carry a label.
    # A ring that is not closed has no replicas left for the hottest.
    cool = load.sum(axis=1, keepdims=True) * (HOT / num_replicas if spare >= num_gpus else np.inf)
    expert = sort_labelled(load, np.arange(experts, dtype=np.int32))
    count = replicate(load, spare, POWER + MORE * np.log2(max(1, spare / num_gpus)), cool)
    load /= count
    bits, row = int(count.max() - 1).bit_length(), np.arange(layers)[:, None]
    gpu, spares, number = ring(load, count, num_gpus)
    load = np.concatenate((load, load.take(spares)), axis=1)
    expert = np.concatenate((expert, expert.take(spares)), axis=1)
    label = expert << bits
    label[:, experts:] += number
    group, rounds = expert * num_groups // experts, num_groups > 1 and capacity >= ROUNDS
    total = deal(load, group * rounds, gpu, num_gpus)
    if not spare and capacity > 2:
        mend(load, gpu, total, UNEVEN[rounds and len(columns) == 1])
    # By GPU, group and load, so that swaps are of like experts.
    place = (gpu * num_groups + group).astype(np.min_scalar_type(num_gpus * num_groups))
    label = label.take(place.argsort(axis=1, kind="stable") + row * num_replicas)
    if not spare:
        cell = (label + row * experts).T.reshape(num_gpus, capacity, layers).swapaxes(0, 1)
        load = columns.reshape(len(columns), -1).take(cell, axis=1)
        held = np.concatenate((cell[None].astype(np.float32), load))
        spread(held)
        label = held[0].T.reshape(layers, -1) - row * experts
    label = torch.from_numpy(label.astype(np.int64))
    slots = torch.arange(num_replicas).expand(layers, -1)
    log2phy = torch.full((layers, experts << bits), -1).scatter_(1, label, slots)
    logcnt = np.empty_like(count)
    logcnt[row, expert[:, :experts]] = count
    return label >> bits, log2phy.view(layers, experts, -1), torch.from_numpy(logcnt)


# EVOLVE-BLOCK-END

run_eplb = rebalance_experts

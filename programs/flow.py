"""Placements for engines that split an expert's tokens anew in every step (`--dispatch lp`).

There the hottest GPU has the most that any set of GPUs alone holds, over their number. So experts
with replicas lie along a ring of GPUs, each beginning where another ends: what is too much flows on
from GPU to GPU. Further spare slots are further laps, in other strides. The rest is dealt in rounds
of one expert group, the heaviest to the lightest GPU. The forecast is `programs/balanced.py`'s.

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
# Windows remembered; the power by which claims fall, and what it gains where spare slots double.
MEMORY, POWER, MORE = 48, 1.2, 0.4
# Replicas above this part of a GPU's mean load are no part of the ring; further laps' strides.
FULL, GOLDEN = 0.8, 0.382
# Slots of a GPU from which on groups have rounds of their own; by how much of the mean another way
# must leave the hottest GPU cooler to be worth it, without such rounds and with them.
ROUNDS, COOLER = 5, (0.005, 0.05)


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


def replicate(load, spare, power):
    """Give spare replicas to the largest claims load / replicas**power of ``load`` [rows, experts].

    load: ascending along rows. Returns the replicas of each, [rows, experts].
    """
    rows, experts = load.shape
    hot = min(experts, spare)
    # Of the claims the k-th hottest can win spare / k: ascending load and descending divisor of
    # each, so that of claims too close to tell apart the hotter expert and the earlier one win.
    chances = spare // np.arange(hot, 0, -1)
    rank = np.repeat(np.arange(experts - hot, experts), chances)
    number = np.repeat(chances.cumsum(), chances) - np.arange(len(rank))
    claim = load.take(rank, axis=1) / (number**power).astype(np.float32)
    chosen = sort_labelled(claim, np.arange(len(rank), dtype=np.int32))[:, -spare:]
    place = rank.take(chosen) + np.arange(0, load.size, experts)[:, None]
    return 1 + np.bincount(place.ravel(), minlength=load.size).reshape(load.shape)


def ring(share, count, num_gpus):
    """Lay experts with replicas along a ring of GPUs: each begins on the GPU where another ends.

    share, count: [rows, experts], a replica's load and their number, hottest experts last. In turn
    come the hottest and the least hot of those left. Returns the spare replicas' GPUs [spare] and
    columns and numbers [rows, spare], and first replicas' GPUs, -1 where free [rows, experts].
    """
    rows, experts = count.shape
    spare = int(count[0].sum()) - experts
    hot = (count > 1).sum(axis=1, dtype=np.int32)[:, None]
    turn = np.arange(int(hot.max()), dtype=np.int32)
    column = experts - 1 - np.where(turn % 2, hot - 1 - turn // 2, turn // 2)
    cell = (column + np.arange(0, count.size, experts)[:, None]).clip(0, count.size - 1)
    more = np.where(turn < hot, count.take(cell) - 1, 0)
    end = more.cumsum(axis=1)
    spares = np.repeat(column.ravel(), more.ravel()).reshape(rows, spare)
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
    first = np.full(count.shape, -1, dtype=np.int32)
    first.ravel()[cell[fits]] = gpu[(lap * num_gpus + end % num_gpus)[fits]]
    return gpu[:spare], spares, np.arange(1, spare + 1) - begin, first


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

    def add(self, load):
        """Remember a window and return the forecast, [layers, experts] each."""
        row = self.windows % MEMORY
        new, product = self.loads[row], self.product
        scale = self.shape[1] / np.maximum(load.sum(axis=1, keepdims=True), 1e-30)
        np.multiply(load, scale, out=new.reshape(self.shape))
        self.windows += 1
        # NumPy's product of such a size may start threads.
        known = self.loads[: self.windows]
        dot = torch.mv(torch.from_numpy(known), torch.from_numpy(new)).numpy() / len(new)
        product[row, : len(dot)] = product[: len(dot), row] = dot
        square = np.diagonal(product)
        distance = square + square[row] - 2 * product[row]
        if self.windows > 1:
            self.steps = [*self.steps, distance[row - 1]][-16:]
        steps = sorted(self.steps) or [0.0]
        usual = steps[len(steps) // 2 if len(steps) > 2 else 0]
        # Windows that correlate by less than a half are not alike, nor are the first two by less
        # than 0.72: one step does not show whether it is noise or a change.
        alike = distance <= min(2 * usual, (square[row] - 1) * (0.55 if self.windows == 2 else 1))
        if self.windows > 1 and alike[row - 1] and self.steps[-1] > 0:
            # How far the last forecasts were from the window that came.
            forecast = self.forecasts * (np.arange(MEMORY) != row)  # overwritten since
            forecast /= forecast.sum(axis=1, keepdims=True)
            error = (forecast @ product * forecast).sum(axis=1)
            error += square[row] - 2 * forecast @ product[row]
            self.errors = 0.9 * self.errors + error / self.steps[-1]
        alike[row] = True
        age = (row - np.arange(MEMORY)) % MEMORY
        weight = (alike & (age < self.windows)) * DECAYS[:, None] ** age
        self.forecasts = weight / weight.sum(axis=1, keepdims=True)
        mix = self.forecasts[(self.errors + DOUBTS).argmin(), : len(known)]
        mix = torch.from_numpy(mix.astype(np.float32))
        return torch.mv(torch.from_numpy(known).T, mix).numpy().reshape(self.shape)


history = History(0, 0)


def taken(share, gpu, spares, first, num_gpus):
    """Return load and number of the replicas that GPUs have already, [rows, gpus] each."""
    rows, experts = share.shape
    start = np.arange(rows)[:, None]
    place = ((start * num_gpus + gpu).ravel(), (start * num_gpus + first)[first >= 0])
    load = (share.take(start * experts + spares).ravel(), share[first >= 0])
    place, cells = np.concatenate(place), rows * num_gpus
    total = np.bincount(place, np.concatenate(load), cells).astype(np.float32)
    return total.reshape(rows, -1), np.bincount(place, minlength=cells).reshape(rows, -1)


def deal(share, group, first, total, room):
    """Deal in rounds, each time the lightest GPU the heaviest replica left; fill ``first``.

    share, group, first: [rows, experts], a replica's load and group, and its GPU, -1 where free
    total, room: [rows, gpus], what GPUs have, and how many replicas they take
    GPUs that take most begin. Other rounds are of one group each, whose loads may rise together.
    """
    (rows, experts), num_gpus = share.shape, room.shape[1]
    most, least = int(room.max()), int(room.min())
    start = np.arange(0, share.size, experts)[:, None]
    share = np.where(first < 0, share, np.float32(0))
    cell = sort_labelled(share, np.arange(experts, dtype=np.int32))[:, ::-1] + start
    share, rank = np.ascontiguousarray(share[:, ::-1]), np.arange(num_gpus, dtype=np.int32)
    # Who must wait is so much heavier for every round.
    wait = np.float32(4 * (total.max() + most * share.max()))
    total += wait * (most - room)
    gpu, begin = sort_labelled(total, np.broadcast_to(rank, total.shape)), start
    for _ in range(most - least):
        takes = total < wait / 2
        item = (begin + rank)[takes]
        first.ravel()[cell.take(item)] = gpu[takes]
        total[takes] += share.take(item)
        total[~takes] -= wait
        gpu, begin = sort_labelled(total, gpu), begin + takes.sum(axis=1, keepdims=True)
    item = (begin + np.arange(least * num_gpus)).astype(np.int32)
    if len(group):
        item += group.take(cell.take(item)) * np.int32(share.size)
        item.sort(axis=1)
        item %= np.int32(share.size)
    item = item.reshape(rows, least, num_gpus)
    item.sort(axis=2)
    load = share.take(item)
    # Rounds of widely different loads come first, so that the others can make them good.
    order = (load[:, :, -1] - load[:, :, 0]).argsort(axis=1).T
    item, load = item[np.arange(rows), order], load[np.arange(rows), order]
    for each, heavy in zip(cell.take(item), load):
        first.ravel()[each] = gpu
        total += heavy
        gpu = sort_labelled(total, gpu)


def deal_from_both_ends(load, num_packs):
    """Deal as `deal`, but packs that a heavy item would take too far take a light one instead.

    Too far is above the mean even if items between the usual and the lightest followed. Packs that
    are too heavy in any case are set aside: the k-th heaviest item, the k-th block of the lightest.
    Returns the items' packs and the load of the heaviest pack of each row.
    """
    rows, items = load.shape
    capacity = items // num_packs
    row, rank, ends = np.arange(rows), np.arange(num_packs), np.arange(items)
    start = row * items
    sums = np.zeros((rows, items + 1))
    load.cumsum(axis=1, dtype=np.float64, out=sums[:, 1:])
    chosen = np.where(ends < items - num_packs, ends // (capacity - 1), items - 1 - ends)
    chosen = np.tile(chosen, (rows, 1))
    alone = np.diff(sums[:, : items - num_packs + 1 : capacity - 1], axis=1)
    alone += load[:, : -num_packs - 1 : -1]
    means = (sums[:, -1:] - alone.cumsum(axis=1) + alone) / np.arange(num_packs, 0, -1)
    aside = (alone > means)[:, :-1].cumprod(axis=1).sum(axis=1)
    mean, packs = means[row, aside], num_packs - aside
    waits = np.flatnonzero(rank >= packs[:, None])
    pack = (rank + aside[:, None]) % num_packs
    total = np.where(rank < packs[:, None], np.float32(0), np.float32(1e30))
    # Items first to last - 1 of a row are left; so many packs take light ones in this round.
    first, last, light = aside * (capacity - 1), items - aside, 0 * aside
    for left in range(capacity - 1, -1, -1):
        heavy = rank < (packs - light)[:, None]
        ends = np.where(heavy, (start + last)[:, None], (start + first + packs)[:, None])
        item = ends - rank - 1
        item.ravel()[waits] = start[waits // num_packs]
        chosen.ravel()[item] = pack
        total += load.ravel()[item]
        pack = sort_labelled(total, pack)
        first, last, light = first + light, last - packs + light, 0 * aside
        if left > 1:
            after = last - packs
            usual = (sums[row, after] - sums[row, first]) / ((left - 1) * packs)
            most = mean - load[row, after] - (left - 1) * (usual + load[row, first]) / 2
            light = np.count_nonzero(total > most[:, None], axis=1) - aside
    chosen[aside > 0, 0] = 0  # Packs that wait seemed to take it.
    hottest = np.maximum(np.where(aside > 0, alone[:, 0], 0), total[row, packs - 1])
    return chosen, hottest


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Decide which expert every slot holds, from the last window's loads [layers, experts].

    Returns ``phy2log`` [layers, num_replicas], the expert in each slot; ``log2phy`` [layers,
    experts, X], the slots of each expert, then -1; ``logcnt`` [layers, experts], its replicas.
    """
    global history
    layers, experts = weight.shape
    if history.shape != (layers, experts):
        history = History(layers, experts)
    load = history.add(weight.to("cpu", torch.float32).numpy())
    # A load of zero has no mantissa to carry a label.
    load, spare = np.maximum(load, 1e-30), num_replicas - experts
    start, capacity = np.arange(0, load.size, experts)[:, None], num_replicas // num_gpus
    expert = sort_labelled(load, np.arange(experts, dtype=np.int32))
    gpu, spares, number = np.zeros((3, layers, 0), dtype=np.int32)
    first, count = np.full(load.shape, -1), np.ones(load.shape, dtype=np.int64)
    if spare:
        count = replicate(load, spare, POWER + MORE * np.log2(max(1, spare / num_gpus)))
        load /= count
        gpu, spares, number, first = ring(load, count, num_gpus)
    total, many = taken(load, gpu, spares, first, num_gpus)
    apart = num_groups > 1 and capacity >= ROUNDS
    group = expert * num_groups // experts if apart else ()
    deal(load, group, first, total, capacity - many)
    if not spare and capacity > 2:
        ends, hottest = deal_from_both_ends(load, num_gpus)
        better = hottest < total.max(axis=1) - COOLER[apart] * total.mean(axis=1)
        first[better] = ends[better]
    # Sorted by GPU, and by label within it: so many bits each for GPU, expert and replica.
    bits, most = (experts - 1).bit_length(), int(count.max() - 1).bit_length()
    kind = np.int32 if num_gpus << bits + most < 2**31 else np.int64
    gpus = np.concatenate((first, np.broadcast_to(gpu, spares.shape)), axis=1, dtype=kind)
    label = np.concatenate((expert << most, (expert.take(spares + start) << most) + number), axis=1)
    label = (gpus << bits + most) | label.astype(kind)
    label.sort(axis=1)
    label = torch.from_numpy((label & (1 << bits + most) - 1).astype(np.int64))
    log2phy = torch.full((layers, experts << most), -1)
    log2phy.scatter_(1, label, torch.arange(num_replicas).expand(layers, -1))
    logcnt = np.empty_like(count)
    logcnt.ravel()[expert + start] = count
    return label >> most, log2phy.view(layers, experts, -1), torch.from_numpy(logcnt)


# EVOLVE-BLOCK-END


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

"""Best balancedness in about a millisecond: forecasts the window to come, packs against the past.

The next window is expected to be the mean of the remembered windows that are like the last one. Old
ones fade, as fast as forecasts that came true did; after a regime change none is left, and a regime
that returns finds its own. Replication is greedy or flatter, all claims at once. Replicas are dealt
to GPUs in rounds, from both ends where hot experts stand alone; then pairs of GPUs swap those that
most lower squared loads over the forecast and the main deviations from it.

Sources: https://github.com/deepseek-ai/EPLB for replication and LPT; deviations are principal
components, used as scenarios. Lineage: docs/lineage.md. Not covered: trends, nodes, groups.
"""

import numpy as np
import torch

# EVOLVE-BLOCK-START
# How much less a window counts in the forecast than the one after it, and how much smaller errors
# must be than those of the second, the usual choice.
DECAYS = np.array([0.0, 0.3, 0.5, 0.7, 0.85, 0.95])
DOUBTS = np.array([0.03, 0.0, 0.03, 0.06, 0.09, 0.12])
# Windows remembered, how many times as far apart as usual those of one regime may be, patterns
# heeded, and windows that show them well.
MEMORY, ALIKE, PATTERNS, TRUSTED = 48, 2.5, 3, 5
# Powers by which claims to replicas fall, all tried where GPUs hold few slots, and how much hotter
# GPUs may be for the later ones, since the hottest experts are likely to cool down.
POWERS, FEW, WORTH = (1.0, 1.2), 4, 0.01


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


def replicate(load, spare, powers):
    """Give spare replicas to the largest claims load / replicas**power of ``load`` [rows, experts].

    Each of the ``powers`` is for as many rows; 1 is greedy, more gives the very hottest fewer.
    Returns the loads of all replicas, ascending, and their labels, expert * most + number, [rows,
    slots] each, and the replicas of each expert [rows, experts], ``most`` at most.
    """
    rows, experts = load.shape
    hot = min(experts, spare)
    # Of the claims the expert of rank r can win spare / r: ascending rank and descending divisor
    # of each, so that of claims too close to tell apart an expert wins the earlier one.
    chances = spare // np.arange(1, hot + 1)
    rank = np.repeat(np.arange(experts - 1, experts - 1 - hot, -1), chances)
    number = np.repeat(chances.cumsum(), chances) - np.arange(len(rank))
    hottest = load.copy()
    expert = sort_labelled(hottest, np.arange(experts, dtype=np.int32))
    claim = hottest.take(rank, axis=1).reshape(len(powers), rows // len(powers), len(rank))
    claim /= (number ** np.array(powers)[:, None, None]).astype(np.float32)
    claim = claim.reshape(rows, len(rank))
    chosen = sort_labelled(claim, np.arange(len(rank), dtype=np.int32))[:, -spare:]
    start = np.arange(0, load.size, experts)[:, None]
    expert, number = expert.take(rank.take(chosen) + start), number.astype(np.int32).take(chosen)
    count = 1 + np.bincount((expert + start).ravel(), minlength=load.size).reshape(load.shape)
    load, most = load / count.astype(np.float32), int(count.max())
    first = np.broadcast_to(np.arange(0, experts * most, most, dtype=np.int32), load.shape)
    label = np.concatenate((first, expert * most + number), axis=1)
    load = np.concatenate((load, load.take(expert + start)), axis=1)
    order = sort_labelled(load, np.arange(load.shape[1], dtype=np.int32))
    return load, label.take(order + np.arange(0, load.size, load.shape[1])[:, None]), count


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
        """Remember a window [layers, experts]; return the weights of all rows in the forecast."""
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
        # Windows that correlate by less than a half are not alike, whatever is usual.
        alike = distance <= min(ALIKE * usual, square[row] - 1)
        if self.windows > 1 and alike[row - 1] and self.steps[-1] > 0:
            # How far the last forecasts were from the window that came.
            forecast = self.forecasts * (np.arange(MEMORY) != row)  # overwritten since
            forecast /= forecast.sum(axis=1, keepdims=True)
            error = (forecast @ product - 2 * product[row]) * forecast
            self.errors = 0.9 * self.errors + (error.sum(axis=1) + square[row]) / self.steps[-1]
        alike[row] = True
        age = (row - np.arange(MEMORY)) % MEMORY
        weight = (alike & (age < self.windows)) * DECAYS[:, None] ** age
        self.forecasts = weight / weight.sum(axis=1, keepdims=True)
        return self.forecasts[(self.errors + DOUBTS).argmin(), : self.windows]

    def columns(self, weight):
        """Forecast and main patterns of deviation from it: [1 + patterns, layers, experts]."""
        used = weight > 1e-4
        windows = np.count_nonzero(used)
        if windows == 1:
            return self.loads[: len(weight)][used].reshape(1, *self.shape)
        trust = used * min(1, windows / TRUSTED) / np.sqrt(windows)
        apart = (np.eye(len(weight)) - weight[:, None]) * trust
        gram = apart.T @ self.product[: len(weight), : len(weight)] @ apart
        patterns = np.linalg.eigh(gram)[1].T[-min(PATTERNS, windows - 1) :]
        mix = torch.from_numpy(np.vstack((weight, patterns @ apart.T)).astype(np.float32))
        return (mix @ torch.from_numpy(self.loads[: len(weight)])).numpy().reshape(-1, *self.shape)


history = History(0, 0)


def deal(load, num_packs):
    """Give every pack one item a round, the lightest pack the heaviest of those that are left.

    load: [rows, items] float32, ascending; returns the items' slots, pack * capacity + round
    """
    rounds = load.reshape(len(load), -1, num_packs)
    rows, capacity, _ = rounds.shape
    usual = rounds @ np.full(num_packs, 1 / num_packs, dtype=np.float32)
    # Of one more item than usual, what the lighter ones of the rounds to come do not make good.
    less = usual - rounds[:, :, 0]
    over = rounds[:, :, -1] - usual - less.cumsum(axis=1) + less
    if capacity > 2 and (over.max(axis=1) > 0.02 * usual.sum(axis=1)).any():
        return deal_from_both_ends(load, num_packs)
    heaviest = np.ascontiguousarray(rounds[:, ::-1, ::-1].transpose(1, 0, 2))
    pack = np.arange(num_packs, dtype=np.int32)
    total = np.zeros((rows, num_packs), dtype=np.float32)
    slot = np.empty((capacity, rows, num_packs), dtype=np.int32)
    for turn, item in enumerate(heaviest):
        slot[turn] = pack * capacity + turn
        total += item
        pack = sort_labelled(total, pack)
    return slot.transpose(1, 0, 2)[:, ::-1, ::-1].astype(np.int64).reshape(load.shape)


def deal_from_both_ends(load, num_packs):
    """Deal as `deal`, but packs that a heavy item would take too far take a light one instead.

    Too far is above the mean even if items between the usual and the lightest followed. Packs that
    are too heavy in any case are set aside: the k-th heaviest item, the k-th block of the lightest.
    """
    rows, items = load.shape
    capacity = items // num_packs
    row, rank, ends = np.arange(rows), np.arange(num_packs), np.arange(items)
    start = row * items
    sums = np.zeros((rows, items + 1))
    load.cumsum(axis=1, dtype=np.float64, out=sums[:, 1:])
    block = 1 + ends % (capacity - 1) + ends // (capacity - 1) * capacity
    slot = np.where(ends < items - num_packs, block, (items - 1 - ends) * capacity)
    slot = np.tile(slot, (rows, 1))
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
        slot.ravel()[item] = pack * capacity + (capacity - 1 - left)
        total += load.ravel()[item]
        pack = sort_labelled(total, pack)
        first, last, light = first + light, last - packs + light, 0 * aside
        if left > 1:
            after = last - packs
            usual = (sums[row, after] - sums[row, first]) / ((left - 1) * packs)
            most = mean - load[row, after] - (left - 1) * (usual + load[row, first]) / 2
            light = np.count_nonzero(total > most[:, None], axis=1) - aside
    slot[aside > 0, 0] = 1  # Packs that wait seemed to take it.
    return slot


def spread(held, load):
    """Let pairs of packs swap, in place, the items of a round that lower the sum of squares most.

    held: [capacity, packs, rows], the label of the item in each place
    load: [columns, capacity, packs, rows] float32, its loads; spoilt
    """
    columns, capacity, packs, rows = load.shape
    space = np.empty((2, load.size // 2), dtype=np.float32)  # New pages each turn would be slow.
    for stride in (16, 8, 4, 2, 1):
        pairs = packs // (2 * stride)
        paired = slice(2 * stride * pairs)
        both = load[:, :, paired].reshape(columns, capacity, pairs, 2, stride, rows)
        item = held[:, paired].reshape(capacity, pairs, 2, stride, rows)
        apart, rest = space[:, : both.size // 2].reshape(2, *both[:, :, :, 0].shape)
        np.subtract(both[:, :, :, 0], both[:, :, :, 1], out=apart)
        # With D between the packs and d between the items, swapping gains 4 d (D - d).
        np.subtract(apart.sum(axis=1, keepdims=True), apart, out=rest)
        rest *= apart
        gain = rest.sum(axis=0)
        swap = gain >= np.maximum(gain.max(axis=0), 1e-7)
        change = (item[:, :, 0] - item[:, :, 1]) * swap
        item[:, :, 0] -= change
        item[:, :, 1] += change
        apart *= swap
        both[:, :, :, 0] -= apart
        both[:, :, :, 1] += apart


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Decide which expert every slot holds, from the last window's loads [layers, experts].

    Returns ``phy2log`` [layers, num_replicas], the expert in each slot; ``log2phy`` [layers,
    experts, X], the slots of each expert, then -1; ``logcnt`` [layers, experts], its replicas.
    """
    global history
    layers, experts = weight.shape
    if history.shape != (layers, experts):
        history = History(layers, experts)
    columns = history.columns(history.add(weight.to("cpu", torch.float32).numpy()))
    # Hot in a window unlike those before, or where loads change so fast: it is likely to cool.
    cools = len(columns) == 1 and history.windows > 1 and num_replicas >= 8 * num_gpus
    powers = POWERS[cools : cools + 1] if num_replicas > FEW * num_gpus else POWERS
    # A load of zero has no mantissa to carry a label.
    load = np.tile(np.maximum(columns[0], 1e-30), (len(powers), 1))
    load, held, logcnt = replicate(load, num_replicas - experts, powers)
    most = int(logcnt.max())
    slot = torch.from_numpy(deal(load, num_gpus))
    both = (torch.from_numpy(each) for each in (load, held))
    load, held = (torch.empty_like(each).scatter_(1, slot, each) for each in both)
    held = held.numpy().reshape(len(held), num_gpus, -1)
    if len(powers) > 1:
        hottest = load.view(len(powers), layers, num_gpus, -1).sum(dim=3).amax(dim=2).numpy()
        hottest[1:] *= 1 - WORTH * (history.windows > 1)
        best = hottest.argmin(axis=0) * layers + np.arange(layers)
        held, logcnt = held[best], logcnt[best]
    columns = columns / logcnt.astype(np.float32)
    if len(columns) > 1 or history.windows == 1:
        # Layers come last, so that neighbours in memory are treated alike.
        last = np.ascontiguousarray(held.transpose(2, 1, 0))
        cell = last // most + np.arange(0, layers * experts, experts)
        spread(last, columns.reshape(len(columns), -1).take(cell, axis=1))
        held = np.ascontiguousarray(last.transpose(2, 1, 0))
    label = held.reshape(layers, num_replicas).astype(np.int64)
    log2phy = torch.full((layers, experts * most), -1)
    log2phy.scatter_(1, torch.from_numpy(label), torch.arange(num_replicas).expand(layers, -1))
    return torch.from_numpy(label // most), log2phy.view(layers, -1, most), torch.from_numpy(logcnt)


# EVOLVE-BLOCK-END

run_eplb = rebalance_experts

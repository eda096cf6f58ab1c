"""Best balancedness in under a millisecond: forecasts the window to come, packs against the past.

The next window is expected to be the mean of the remembered windows that are like the last one. Old
ones fade, as fast as forecasts that came true did; after a regime change none is left, and a regime
that returns finds its own. Replication is greedy, all claims at once. Replicas are dealt to GPUs in
rounds, from both ends where hot experts stand alone; then pairs of GPUs swap those that most lower
squared loads over the forecast and the main deviations from it (principal components over time).

Sources: https://github.com/deepseek-ai/EPLB for replication and LPT; scenarios are sample average
approximation's. Lineage: docs/lineage.md. Not covered: trends, nodes, groups.
"""

import numpy as np
import torch

# EVOLVE-BLOCK-START
# How much less a window counts in the forecast than the one after it, the choice for two windows,
# the usual one, and how much worse than others that must do, a step away, to be given up.
DECAYS = np.array([0.0, 0.3, 0.5, 0.7, 0.85, 0.95])
CAREFUL, USUAL, DOUBT = 1, 2, 0.03
# Windows remembered, patterns heeded, and windows that show them well.
MEMORY, PATTERNS, TRUSTED = 48, 3, 5
# How far apart packs stand that swap, turn by turn.
STRIDES = (16, 8, 4, 2, 1)


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

    A power of 1 is greedy, more gives the very hottest fewer. Returns the cell of ``load`` of each
    spare replica and its number among the replicas of its expert, from 1, [rows, spare] each.
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
    expert += np.arange(0, load.size, experts, dtype=np.int32)[:, None]
    claim = hottest.take(rank, axis=1) / (number**power).astype(np.float32)
    chosen = sort_labelled(claim, np.arange(len(rank), dtype=np.int32))[:, -spare:]
    place = rank.take(chosen) + np.arange(0, load.size, experts)[:, None]
    return expert.take(place), number.astype(np.int32).take(chosen)


def replicas(load, cell, number, most):
    """Sort the loads of all replicas [rows, slots], with labels expert * most + number.

    load: [rows, experts], what a replica of each expert has; cell, number: of the spare ones
    """
    experts = load.shape[1]
    first = np.broadcast_to(np.arange(0, experts * most, most, dtype=np.int32), load.shape)
    value = np.concatenate((load, load.take(cell)), axis=1)
    label = np.concatenate((first, cell % experts * most + number), axis=1)
    order = sort_labelled(value, np.arange(value.shape[1], dtype=np.int32))
    return value, label.take(order + np.arange(0, value.size, value.shape[1])[:, None])


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
        known = self.loads[: self.windows]
        dot = torch.mv(torch.from_numpy(known), torch.from_numpy(new)).numpy() / len(new)
        product[row, : len(dot)] = product[: len(dot), row] = dot
        square = np.diagonal(product)
        distance = square + square[row] - 2 * product[row]
        if self.windows > 1:
            self.steps = [*self.steps, distance[row - 1]][-16:]
        steps = sorted(self.steps) or [0.0]
        usual = steps[len(steps) // 2 if len(steps) > 2 else 0]
        # Windows that correlate by less than a half are not alike, whatever is usual.
        alike = distance <= min(2 * usual, square[row] - 1)
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
        far = np.abs(np.arange(len(DECAYS)) - (USUAL if self.windows > 2 else CAREFUL))
        return self.forecasts[(self.errors + DOUBT * far).argmin(), : self.windows]

    def columns(self, weight):
        """Forecast and main patterns of deviation from it: [1 + patterns, layers, experts]."""
        used = weight > 1e-4
        windows = np.count_nonzero(used)
        if windows == 1:
            return self.loads[: len(weight)][used].reshape(1, *self.shape)
        trust = min(1, windows / TRUSTED) / np.sqrt(windows)
        apart = (np.eye(len(weight)) - weight[:, None]) * (used * trust)
        gram = apart.T @ self.product[: len(weight), : len(weight)] @ apart
        # The eighth power leaves the largest components.
        gram = np.linalg.matrix_power(gram / max(np.linalg.norm(gram), 1e-30), 8)
        mix = np.empty((1 + min(PATTERNS, windows - 1), len(weight)), dtype=np.float32)
        mix[0] = weight
        patterns = gram[gram.diagonal().argsort()[1 - len(mix) :]]
        for place, pattern in enumerate(patterns):
            pattern -= patterns[:place] @ pattern @ patterns[:place]
            pattern /= max(np.linalg.norm(pattern), 1e-30)
        mix[1:] = patterns @ apart.T
        known = torch.from_numpy(self.loads[: len(weight)])
        return (torch.from_numpy(mix) @ known).numpy().reshape(-1, *self.shape)


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


def set_aside(load, sums, num_packs):
    """Find the packs of each row that are too heavy even with the lightest items.

    Pack k holds the k-th heaviest item and the k-th block of the lightest. Returns how many are too
    heavy and the mean load of the others, [rows] each, and all slots.
    """
    rows, items = load.shape
    light = items // num_packs - 1
    loads = np.diff(sums[:, : light * num_packs + 1 : light], axis=1)
    loads += load[:, : -num_packs - 1 : -1]
    rest = (sums[:, -1:] - loads.cumsum(axis=1) + loads) / np.arange(num_packs, 0, -1)
    heavy = loads > rest
    heavy[:, -1] = False
    aside = heavy.argmin(axis=1)
    item = np.arange(items)
    block = 1 + item % light + item // light * (light + 1)
    slot = np.where(item < items - num_packs, block, (items - 1 - item) * (light + 1))
    return aside, rest[np.arange(rows), aside], np.tile(slot, (rows, 1))


def deal_from_both_ends(load, num_packs):
    """Deal as `deal`, but packs that a heavy item would take too far take a light one instead.

    Too far is above the mean even if items between the usual and the lightest followed. Packs that
    are too heavy in any case are set aside with the lightest items.
    """
    rows, items = load.shape
    capacity = items // num_packs
    row, rank, start = np.arange(rows), np.arange(num_packs), np.arange(0, load.size, items)
    sums = np.zeros((rows, items + 1))
    load.cumsum(axis=1, dtype=np.float64, out=sums[:, 1:])
    aside, mean, slot = set_aside(load, sums, num_packs)
    packs = num_packs - aside
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
    space = np.empty((2, load.size // 2), dtype=np.float32)
    for stride in STRIDES:
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
    # A load of zero has no mantissa to carry a label.
    load = np.maximum(columns[0], 1e-30)
    # What one window alone shows as very hot is likely to cool down.
    alone = len(columns) == 1 and 8 * num_gpus <= num_replicas <= 2 * experts
    cell, number = replicate(load, num_replicas - experts, 1.2 if alone else 1.0)
    logcnt = 1 + np.bincount(cell.ravel(), minlength=load.size).reshape(load.shape)
    most, count = int(logcnt.max()), logcnt.astype(np.float32)
    load, label = replicas(load / count, cell, number, most)
    slot = torch.from_numpy(deal(load, num_gpus))
    held = torch.empty_like(slot, dtype=torch.int32).scatter_(1, slot, torch.from_numpy(label))
    held = held.numpy().reshape(layers, num_gpus, -1)
    if len(columns) > 1:
        # Layers come last, so that neighbours in memory are treated alike.
        last = np.ascontiguousarray(held.transpose(2, 1, 0))
        cell = last // most + np.arange(0, layers * experts, experts)
        spread(last, (columns / count).reshape(len(columns), -1).take(cell, axis=1))
        held = last.transpose(2, 1, 0)
    label = held.reshape(layers, num_replicas).astype(np.int64)
    log2phy = torch.full((layers, experts * most), -1)
    log2phy.scatter_(1, torch.from_numpy(label), torch.arange(num_replicas).expand(layers, -1))
    return torch.from_numpy(label // most), log2phy.view(layers, -1, most), torch.from_numpy(logcnt)


# EVOLVE-BLOCK-END


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

"""Best balancedness in about a millisecond: forecasts the window to come, packs against the past.

The next window is expected to be the mean of the remembered windows that are like the last one. Old
ones fade, as fast as forecasts that came true did; after a regime change none is left, and a regime
that returns finds its own. Replication is greedy, all claims at once; of small problems with few
slots a GPU many counts are tried. Replicas are dealt to GPUs in rounds, each of one expert group
where groups rise together, or one by one where hot experts stand alone; then pairs of GPUs swap
those that most lower squared loads over the forecast and the main deviations from it.

Source: https://github.com/deepseek-ai/EPLB. Lineage: docs/lineage.md. Not covered: trends, nodes.
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
# How much further apart than by chance groups are that rise together, experts cut off at a load;
# slots of a GPU from which on groups have own rounds, to which swaps part halves; a half's rise.
TOGETHER, HOT, ROUNDS, SWAPS, RISE = 2, 3, 5, 6, 0.08
# Unevenness that dealing one by one may mend: of all, of one slot, and of all with groups apart.
UNEVEN = (0.02, 0.1, 0.2)
# Slots of a GPU up to which counts are searched, turns and replicas to pack at most; ways tried in
# a turn, and how much loads differ in the last.
FEW, TURNS, TRIED, TRIALS, CHANGE = 4, 16, 50_000, 192, 2.4


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


def replicate(load, spare):
    """Spend spare replicas on the largest claims load / replicas of ``load`` [rows, experts].

    Returns the replicas of each expert [rows, experts]; and of those spent their experts and which
    of its replicas each is, from 1 on, [rows, spare] each.
    """
    experts = load.shape[1]
    # Of the claims the expert of rank r can win spare / r: ascending rank and descending divisor
    # of each, so that of claims too close to tell apart an expert wins the earlier one.
    chances = spare // np.arange(1, min(experts, spare) + 1)
    rank = experts - 1 - np.repeat(np.arange(len(chances)), chances)
    number = np.repeat(chances.cumsum(), chances) - np.arange(len(rank))
    hottest, start = load.copy(), np.arange(0, load.size, experts)[:, None]
    expert = sort_labelled(hottest, np.arange(experts, dtype=np.int32))
    claim = hottest.take(rank, axis=1) / number.astype(np.float32)
    chosen = sort_labelled(claim, np.arange(len(rank), dtype=np.int32))[:, len(rank) - spare :]
    expert = expert.take(rank.take(chosen) + start)
    count = 1 + np.bincount((expert + start).ravel(), minlength=load.size).reshape(load.shape)
    return count, expert, number.take(chosen)


def replicas(load, count, expert, number):
    """Return the loads of all replicas, ascending, and their labels, expert * most + number.

    load: [rows, experts], and what `replicate` returned; ``most`` is the largest count.
    """
    (rows, experts), most = load.shape, count.max()
    load = load / count.astype(np.float32)
    label = np.empty((rows, experts + expert.shape[1]), dtype=np.int32)
    label[:, :experts] = np.arange(experts) * most
    label[:, experts:] = expert * most + number
    more = load.take(expert + np.arange(0, load.size, experts)[:, None])
    load = np.concatenate((load, more), axis=1)
    order = sort_labelled(load, np.arange(load.shape[1], dtype=np.int32))
    return load, label.take(order + np.arange(0, load.size, load.shape[1])[:, None])


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
        # Windows that correlate by less than a half, at first 0.72, are not alike in any case.
        alike = distance <= min(ALIKE * usual, (square[row] - 1) * min(1, 0.28 * self.windows))
        if self.windows > 1 and alike[row - 1] and self.steps[-1] > 0:
            # How far the last forecasts were from the window that came.
            error = (self.forecasts @ product - 2 * product[row]) * self.forecasts
            self.errors = 0.9 * self.errors + (error.sum(axis=1) + square[row]) / self.steps[-1]
        alike[row] = True
        age = (row - np.arange(MEMORY)) % MEMORY
        # The oldest is overwritten before the forecast can be judged.
        weight = (alike & (age < min(self.windows, MEMORY - 1))) * DECAYS[:, None] ** age
        self.forecasts = weight / weight.sum(axis=1, keepdims=True)
        return self.forecasts[(self.errors + DOUBTS).argmin(), : self.windows]

    def columns(self, weight):
        """Forecast and principal components of errors: [1 + patterns, layers, experts]."""
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


def deal(load, group, num_packs, uneven):
    """Return the cell of the item in every place of equal packs, [capacity, packs, rows].

    load, group: [rows, items], float32, ascending, and int32. Rounds are of one group as far as
    possible, unless that leaves the heaviest pack ``uneven`` of the mean above the least.
    """
    items, bits = load.shape[1], (load.shape[1] - 1).bit_length()
    down = (1 << bits) - 1
    # Ascending in one group and descending in the next, so that those in a round are alike.
    item = group << bits | np.arange(items, dtype=np.int32) ^ -(group & 1) & down
    item.sort(axis=1)
    cell, total = deal_rounds(load, item & down ^ -(item >> bits & 1) & down, num_packs)
    mean, hottest = total.mean(axis=1), total.max(axis=1)
    # No pack with the heaviest item can have less.
    least = np.maximum(load[:, -1] + load[:, : len(cell) - 1].sum(axis=1), mean)
    row = np.flatnonzero(hottest > least + uneven * mean)
    if len(row) and len(cell) > 2:
        other, total = deal_singly(load[row], num_packs)
        other += (row - np.arange(len(row))) * items
        better = total.max(axis=1) < hottest[row]
        cell[:, :, row[better]] = other[:, :, better]
    return cell


def deal_singly(load, num_packs):
    """Deal as `deal_rounds`, but the heaviest item left to the pack that is to be the lightest.

    That is, if all room left took the mean of the items left: light ones are for those with heavy.
    """
    rows, items = load.shape
    start = np.arange(0, rows * num_packs, num_packs)
    total = np.zeros((rows, num_packs), dtype=np.float32)
    room = np.full(total.shape, items // num_packs, dtype=np.float32)
    mean = load.cumsum(axis=1) / np.arange(1, items + 1, dtype=np.float32)
    packs, rounds = np.empty((2, items, rows), dtype=np.int64)
    for item in range(items - 1, -1, -1):
        pack = packs[item] = (total + room * mean[:, item, None]).argmin(axis=1) + start
        left = rounds[item] = room.ravel()[pack] - 1
        room.ravel()[pack] = np.where(left > 0, left, np.inf)
        total.ravel()[pack] += load[:, item]
    cell = np.empty((items // num_packs, num_packs, rows), dtype=np.int64)
    cell[rounds, packs - start, np.arange(rows)] = np.arange(load.size).reshape(rows, items).T
    return cell, total


def deal_rounds(load, item, num_packs):
    """Deal every pack one item of a round, the heaviest to the lightest; return cells and loads.

    item: [rows, items], round by round. Rounds of widely different loads come first, so that the
    others can make them good.
    """
    rows, items = load.shape
    item = np.sort(item.reshape(rows, items // num_packs, num_packs), axis=2)
    item = item + np.arange(0, load.size, items)[:, None, None]
    heavy, row = load.take(item), np.arange(rows)
    order = (heavy[:, :, 0] - heavy[:, :, -1]).argsort(axis=1).T
    pack, place = np.arange(num_packs, dtype=np.int32), row[:, None]
    total = np.zeros((rows, num_packs), dtype=np.float32)
    cell = np.empty((len(order), num_packs, rows), dtype=np.int64)
    for slots, each in zip(cell, item[row, order, ::-1]):
        slots.ravel()[pack * rows + place] = each
        total += load.take(each)
        pack = sort_labelled(total, pack)
    return cell, total


def search(load, spare, num_gpus, turns):
    """Return claims to replicas that leave the hottest GPU cooler than those of ``load`` itself.

    Every turn changes them at random in many ways, a little or a lot, and keeps the best.
    """
    random, claim, row = np.random.default_rng(0), load, np.arange(len(load))
    change = np.linspace(0, CHANGE, TRIALS)[:, None, None]  # The first is none.
    for _ in range(turns):
        claim = claim * np.exp(change * random.standard_normal((TRIALS, *load.shape)))
        claim = claim.reshape(-1, load.shape[1]).astype(np.float32)
        share, _ = replicas(np.tile(load, (TRIALS, 1)), *replicate(claim, spare))
        total = share.take(deal(share, np.zeros(share.shape, np.int32), num_gpus, 0)).sum(axis=0)
        best = total.max(axis=0).reshape(TRIALS, -1).argmin(axis=0)
        claim = claim[best * len(load) + row]
    return claim


def spread(load):
    """Let pairs of packs swap, in place, the items of a round that lower the sum of squares most.

    load: [1 + columns, capacity, packs, rows] float32, a number for every item, and its loads
    """
    packs, rows = load.shape[2:]
    space = np.empty((2, load.size // 2), dtype=np.float32)  # New pages each turn would be slow.
    strides = [stride for stride in (16, 8, 4, 2, 1) if 2 * stride <= packs]
    for stride in strides[: 2 if len(load) == 2 else None]:  # Two do for the forecast alone.
        pairs = packs // (2 * stride)
        both = load[:, :, : 2 * stride * pairs].reshape(*load.shape[:2], pairs, 2, stride, rows)
        one, other = both[:, :, :, 0], both[:, :, :, 1]
        apart, rest = space[:, : one.size].reshape(2, *one.shape)
        np.subtract(one, other, out=apart)
        # With D between the packs and d between the items, swapping gains 4 d (D - d).
        np.subtract(apart[1:].sum(axis=1, keepdims=True), apart[1:], out=rest[1:])
        gain = np.multiply(rest[1:], apart[1:], out=rest[1:]).sum(axis=0)
        apart *= (gain >= np.maximum(gain.max(axis=0), 1e-7)).astype(np.float32)
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
    columns = history.columns(history.add(weight.to("cpu", torch.float32).numpy()))
    load = np.maximum(columns[0], 1e-30)  # Zero has no mantissa to carry a label.
    spare, few = num_replicas - experts, experts < num_replicas <= FEW * num_gpus
    turns = min(TURNS, TRIED // (TRIALS * layers * num_replicas)) if few else 0
    claim = search(load, spare, num_gpus, turns) if turns else load
    logcnt, *spares = replicate(claim, spare)
    most = int(logcnt.max())
    heat = np.minimum(load, HOT)
    mean = heat.reshape(layers, num_groups, -1).mean(axis=2)
    chance = (np.square(heat).mean() - np.square(mean.mean(axis=1)).mean()) * num_groups / experts
    groups = num_groups if mean.var(axis=1).mean() > TOGETHER * chance else 1
    rounds = groups if num_replicas >= ROUNDS * num_gpus else 1
    # Hot experts that stand alone matter more than groups where several windows show them.
    apart = rounds > 1 and (spare or len(columns) == 1)
    uneven = UNEVEN[2] if apart else min(UNEVEN[0], UNEVEN[1] * num_gpus / num_replicas)
    load, label = replicas(load, logcnt, *spares)
    cell = deal(load, label // np.int32(most * (experts // rounds)), num_gpus, uneven)
    if groups > 1 and 2 * num_gpus < num_replicas <= SWAPS * num_gpus:
        group = np.arange(experts) * groups // experts
        half = group >> np.arange((groups - 1).bit_length())[:, None, None] & 1
        columns = np.concatenate((columns, columns[0] * (RISE * (2 * half - 1)).astype(np.float32)))
    held = label.take(cell)
    cell = held // np.int32(most) + np.arange(0, layers * experts, experts)
    load = (columns / logcnt.astype(np.float32)).reshape(len(columns), -1).take(cell, axis=1)
    held = np.concatenate((held[None].astype(np.float32), load))
    spread(held)
    label = np.ascontiguousarray(held[0].T).reshape(layers, num_replicas).astype(np.int64)
    log2phy = torch.full((layers, experts * most), -1)
    log2phy.scatter_(1, torch.from_numpy(label), torch.arange(num_replicas).expand(layers, -1))
    return torch.from_numpy(label // most), log2phy.view(layers, -1, most), torch.from_numpy(logcnt)


# EVOLVE-BLOCK-END

run_eplb = rebalance_experts

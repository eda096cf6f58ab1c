"""Best balancedness in about a millisecond: forecasts the window to come, packs against the past.

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


def put_labels(value, label, bits):
    """Replace the lowest ``bits`` bits of positive float64 values by integer labels, in place."""
    number = value.view(np.int64)
    number &= -(1 << bits)
    number |= label


def labels(value, bits):
    return value.view(np.int64) & ((1 << bits) - 1)


def replicate(load, spare, power):
    """Give spare replicas to the largest claims load / replicas**power of ``load`` [rows, experts].

    A power of 1 is greedy, more gives the very hottest fewer. Returns [rows, experts] replicas.
    """
    rows, experts = load.shape
    hot = min(experts, spare)
    if not hot:
        return np.ones((rows, experts), dtype=np.int64)
    # Of the claims the expert of rank r can win spare / r: ascending rank and divisor of each.
    chances = spare // np.arange(1, hot + 1)
    rank = np.repeat(np.arange(hot)[::-1], chances)
    number = 1 + np.arange(len(rank)) - np.repeat(chances.cumsum() - chances, chances)
    expert_bits, bits = (experts - 1).bit_length(), (len(rank) - 1).bit_length()
    hottest = load.copy()
    put_labels(hottest, np.arange(experts), expert_bits)
    hottest.partition(experts - hot, axis=1)
    hottest = np.sort(hottest[:, experts - hot :], axis=1)
    claim = hottest.take(rank, axis=1) / number**power
    put_labels(claim, np.arange(len(rank)), bits)
    claim.partition(len(rank) - spare, axis=1)
    chosen = rank[labels(claim[:, -spare:], bits)]
    expert = np.take_along_axis(labels(hottest, expert_bits), chosen, axis=1)
    expert += np.arange(0, rows * experts, experts)[:, None]
    return 1 + np.bincount(expert.ravel(), minlength=rows * experts).reshape(rows, experts)


def replicas(load, count, bits):
    """Loads of all replicas [rows, slots], ascending, with labels expert << bits | number."""
    rows, experts = load.shape
    cell = np.repeat(np.arange(load.size), count.ravel())
    number = np.arange(len(cell)) - (count.cumsum() - count.ravel()).take(cell)
    value = (load / count).take(cell)
    number |= np.tile(np.arange(experts) << bits, rows).take(cell)
    put_labels(value, number, bits + (experts - 1).bit_length())
    return np.sort(value.reshape(rows, -1), axis=1)


class History:
    """The last windows, each layer scaled to a mean load of one, and what they teach.

    loads: [MEMORY, layers * experts] float32; a row is one window, the oldest is overwritten
    product: [MEMORY, MEMORY], mean products of the loads of two windows
    steps: squared distances of the last windows to those before
    errors: [decays], squared errors of each decay's forecasts in units of the steps, fading
    """

    def __init__(self, layers, experts):
        self.shape = (layers, experts)
        self.loads = np.zeros((MEMORY, layers * experts), dtype=np.float32)
        self.product = np.zeros((MEMORY, MEMORY))
        self.windows, self.steps, self.forecasts = 0, [], None
        self.errors = np.zeros(len(DECAYS))

    def add(self, load):
        """Remember a window [layers, experts]; return the weight of each row in the forecast."""
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
        return self.forecasts[(self.errors + DOUBT * far).argmin()]

    def columns(self, weight):
        """Forecast and main patterns of deviation from it: [1 + patterns, layers, experts]."""
        used = weight > 1e-4
        windows = np.count_nonzero(used)
        mix = weight[:, None]
        if windows > 1:
            trust = min(1, windows / TRUSTED) / np.sqrt(windows)
            apart = (np.eye(MEMORY) - mix) * (used * trust)
            gram = apart.T @ self.product @ apart
            # The eighth power leaves the largest components.
            gram = np.linalg.matrix_power(gram / max(np.trace(gram), 1e-30), 8)
            start = gram.diagonal().argsort()[-min(PATTERNS, windows - 1) :]
            mix = np.concatenate((mix, apart @ np.linalg.qr(gram[:, start])[0]), axis=1)
        mix = torch.from_numpy(mix[: self.windows].astype(np.float32))
        known = torch.from_numpy(self.loads[: self.windows])
        return (mix.T @ known).numpy().reshape(-1, *self.shape)


history = History(0, 0)


def deal(load, num_packs):
    """Give every pack one item a round, the lightest pack the heaviest of those that are left.

    load: [rows, items] float64, ascending; returns the items' places, round * num_packs + pack
    """
    rows, items = load.shape
    rounds = load.reshape(rows, -1, num_packs)
    usual = rounds.mean(axis=2)
    # Of one more item than usual, what the lighter ones of the rounds to come do not make good.
    less = usual - rounds[:, :, 0]
    over = rounds[:, :, -1] - usual - less.cumsum(axis=1) + less
    if items > 2 * num_packs and (over.max(axis=1) > 0.02 * usual.sum(axis=1)).any():
        return deal_from_both_ends(load, num_packs)
    bits = (num_packs - 1).bit_length()
    place = np.empty((rows, items), dtype=np.int64)
    pack = np.arange(num_packs)
    total = np.zeros((rows, num_packs))
    for last in range(items, 0, -num_packs):
        place[:, last - num_packs : last] = pack[..., ::-1] + (items - last)
        total += load[:, last - num_packs : last][:, ::-1]
        put_labels(total, pack, bits)
        total.sort(axis=1)
        pack = labels(total, bits)
    return place


def set_aside(load, sums, num_packs):
    """Find the packs of each row that are too heavy even with the lightest items.

    Pack k holds the k-th heaviest item and the k-th block of the lightest. Returns how many are too
    heavy and the mean load of the others, [rows] each, and all places.
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
    block = (1 + item % light) * num_packs + item // light
    place = np.where(item < items - num_packs, block, items - 1 - item)
    return aside, rest[np.arange(rows), aside], np.tile(place, (rows, 1))


def deal_from_both_ends(load, num_packs):
    """Deal as `deal`, but packs that a heavy item would take too far take a light one instead.

    Too far is above the mean even if items between the usual and the lightest followed. Packs that
    are too heavy in any case are set aside with the lightest items.
    """
    rows, items = load.shape
    capacity, bits = items // num_packs, (num_packs - 1).bit_length()
    row, rank = np.arange(rows), np.arange(num_packs)
    start = row * items
    sums = np.concatenate((np.zeros((rows, 1)), load.cumsum(axis=1)), axis=1)
    aside, mean, place = set_aside(load, sums, num_packs)
    packs = num_packs - aside
    waits = np.flatnonzero(rank >= packs[:, None])
    pack = (rank + aside[:, None]) % num_packs
    total = np.where(rank < packs[:, None], 0.0, 1e300)
    # Items first to last - 1 of a row are left; so many packs take light ones in this round.
    first, last, light = aside * (capacity - 1), items - aside, 0 * aside
    for left in range(capacity - 1, -1, -1):
        heavy = rank < (packs - light)[:, None]
        ends = np.where(heavy, (start + last)[:, None], (start + first + packs)[:, None])
        item = ends - rank - 1
        item.ravel()[waits] = start[waits // num_packs]
        place.ravel()[item] = pack + (capacity - 1 - left) * num_packs
        total += load.ravel()[item]
        put_labels(total, pack, bits)
        total.sort(axis=1)
        pack = labels(total, bits)
        first, last, light = first + light, last - packs + light, 0 * aside
        if left > 1:
            after = last - packs
            usual = (sums[row, after] - sums[row, first]) / ((left - 1) * packs)
            most = mean - load[row, after] - (left - 1) * (usual + load[row, first]) / 2
            light = np.count_nonzero(total > most[:, None], axis=1) - aside
    place[aside > 0, 0] = num_packs  # Packs that wait seemed to take it.
    return place


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
    load = np.maximum(columns[0], 1e-30, dtype=np.float64)
    # What one window alone shows as very hot is likely to cool down.
    alone = len(columns) == 1 and 8 * num_gpus <= num_replicas <= 2 * experts
    logcnt = replicate(load, num_replicas - experts, 1.2 if alone else 1.0)
    bits = (num_replicas - experts).bit_length()
    load = replicas(load, logcnt, bits)
    at = deal(load, num_gpus) * layers + np.arange(layers)[:, None]
    # Layers come last, so that neighbours in memory are treated alike.
    held = np.empty((num_replicas // num_gpus, num_gpus, layers), dtype=np.int32)
    held.ravel()[at] = labels(load, bits + (experts - 1).bit_length())
    if len(columns) > 1:
        cell = (held >> bits) + np.arange(0, layers * experts, experts)
        replica = columns / logcnt.astype(np.float32)
        spread(held, replica.reshape(len(columns), -1).take(cell, axis=1))
    label = held.transpose(2, 1, 0).reshape(layers, num_replicas).astype(np.int64)
    most, phy2log = int(logcnt.max()), label >> bits
    # label = expert << bits | number becomes expert * most + number.
    label -= phy2log * ((1 << bits) - most)
    log2phy = np.full((layers, experts, most), -1)
    label += np.arange(0, log2phy.size, experts * most)[:, None]
    log2phy.ravel()[label] = np.arange(num_replicas)
    return torch.from_numpy(phy2log), torch.from_numpy(log2phy), torch.from_numpy(logcnt)


# EVOLVE-BLOCK-END


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

"""Best balancedness in about a millisecond: forecasts the window to come, packs against the past.

- Forecast. The next window is expected to be the mean of the remembered windows that look like the
  last one: less than twice as far from it as consecutive windows usually are. Old ones fade; how
  fast is learnt from which forecasts came true. A regime change empties the mean at once, and a
  regime that returns finds its old windows again.
- Patterns. The main patterns over time in which those windows left their mean, over all layers
  together (principal components), say which experts run hot together.
- Placement. Greedy replication, all claims at once; packing in rounds, from both ends where hot
  experts stand alone. Then pairs of GPUs swap replicas that most lower squared GPU loads over
  forecast and patterns.

Sources: https://github.com/deepseek-ai/EPLB for replication and LPT; scenarios are sample average
approximation's. Lineage in `docs/lineage.md`, figures in `docs/balancers.md`. Not covered: trends,
nodes, groups; a regime's first window stands alone.
"""

from functools import lru_cache

import numpy as np
import torch

# EVOLVE-BLOCK-START
# How much less a window counts in the forecast than the one after it, the choice for two windows,
# the usual one, and how much worse than others that must do, a step away, to be given up.
DECAYS = np.array([0.0, 0.3, 0.5, 0.7, 0.85, 0.95])
CAREFUL, USUAL, DOUBT = 1, 2, 0.03
# Patterns over time that the packing heeds, and the windows from which on it trusts them wholly.
PATTERNS, TRUSTED = 3, 5
# How far apart packs stand that swap, turn by turn.
STRIDES = (16, 8, 4, 2, 1)
# Loads to place at once: as many as stay in a processor's second-level cache.
LOADS = 20_000


@lru_cache(maxsize=8)
def claims(experts, spare, power):
    """All claims to spare replicas: ascending rank, replicas so far and divisor, [candidates]."""
    hot = min(experts, spare)
    replicas = [np.arange(1, spare // rank + 1) for rank in range(1, hot + 1)]
    position = np.repeat(np.arange(hot - 1, -1, -1), [len(each) for each in replicas])
    number = np.concatenate(replicas)
    return position, number, number**power


def put_labels(value, label, bits):
    """Replace the lowest ``bits`` bits of positive float64 values by integer labels, in place."""
    number = value.view(np.int64)
    number &= -(1 << bits)
    number |= label


def labels(value, bits):
    """Read the labels back."""
    return value.view(np.int64) & ((1 << bits) - 1)


def replicate(load, spare, power, label_bits):
    """Give the spare replicas to the largest claims load / replicas**power, all at once.

    load: [rows, experts], ascending, with labels; changed in place to the load of one replica
    spare: replicas per row beyond one an expert
    power: 1 is greedy replication; more gives the very hottest fewer

    Returns the loads of the spare replicas [rows, spare], labelled with their number too, and the
    replicas [rows, hot] of the last ``hot`` experts; all others have one.
    """
    rows, experts = load.shape
    hot = min(experts, spare)
    rank, replicas, divisor = claims(experts, spare, power)
    bits = len(rank).bit_length()
    hottest = load[:, -hot:]
    quotient = hottest.take(rank, axis=1)
    quotient /= divisor
    put_labels(quotient, np.arange(len(rank)), bits)
    quotient.sort(axis=1)
    chosen = labels(quotient[:, -spare:], bits)

    cell = rank[chosen] + np.arange(0, rows * hot, hot)[:, None]
    count = 1 + np.bincount(cell.ravel(), minlength=rows * hot).reshape(rows, hot)
    label = labels(hottest, label_bits)
    hottest /= count
    put_labels(hottest, label, label_bits)
    extra = hottest.ravel()[cell]
    extra.view(np.int64)[...] |= replicas[chosen]
    return extra, count


class History:
    """The last windows, each layer scaled to a mean load of one, and what they teach.

    loads: [MEMORY, layers * experts] float32; a row is one window, the oldest is overwritten
    product: [MEMORY, MEMORY], mean products of the loads of two windows
    steps: squared distance of each of the last windows to the one before
    errors: [decays], squared error of each decay's forecasts in units of the steps, fading
    """

    MEMORY = 24

    def __init__(self, layers, experts):
        self.shape = (layers, experts)
        self.loads = np.zeros((self.MEMORY, layers * experts), dtype=np.float32)
        self.product = np.zeros((self.MEMORY, self.MEMORY))
        self.windows, self.steps, self.forecasts = 0, [], None
        self.errors = np.zeros(len(DECAYS))

    def add(self, load):
        """Remember a window [layers, experts]; return the weight of each row in the forecast."""
        row = self.windows % self.MEMORY
        new, product = self.loads[row], self.product
        scale = self.shape[1] / np.maximum(load.sum(axis=1, keepdims=True), 1e-30)
        np.multiply(load, scale, out=new.reshape(self.shape))
        self.windows += 1
        # NumPy's product of such a size may start threads.
        dot = torch.mv(torch.from_numpy(self.loads), torch.from_numpy(new)).numpy() / len(new)
        product[row] = product[:, row] = dot
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
            forecast = self.forecasts * (np.arange(self.MEMORY) != row)  # overwritten since
            forecast /= forecast.sum(axis=1, keepdims=True)
            error = (forecast @ product * forecast).sum(axis=1)
            error += square[row] - 2 * forecast @ product[row]
            self.errors = 0.9 * self.errors + error / self.steps[-1]
        alike[row] = True
        age = (row - np.arange(self.MEMORY)) % self.MEMORY
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
            trust = min(1, windows / TRUSTED)
            apart = (np.eye(self.MEMORY) - mix) * (used * (trust / np.sqrt(windows)))
            gram = apart.T @ self.product @ apart
            # The eighth power leaves the largest principal components.
            gram = np.linalg.matrix_power(gram / max(np.trace(gram), 1e-30), 8)
            start = gram.diagonal().argsort()[-min(PATTERNS, windows - 1) :]
            mix = np.concatenate((mix, apart @ np.linalg.qr(gram[:, start])[0]), axis=1)
        known = torch.from_numpy(self.loads[: self.windows])
        mix = torch.from_numpy(mix[: len(known)].astype(np.float32))
        return (mix.T @ known).numpy().reshape(-1, *self.shape)


history = History(0, 0)


def deal(load, num_packs):
    """Give every pack one item a round, the lightest pack the heaviest of those that are left.

    load: [rows, items] float64, ascending; returns the items' places, round * num_packs + pack
    """
    rows, items = load.shape
    rounds = load.reshape(rows, -1, num_packs)
    usual = rounds.mean(axis=2)
    # How much less than others the heaviest pack can receive after the first round.
    less = (usual[:, :-1] - rounds[:, :-1, 0]).sum(axis=1)
    if items > 2 * num_packs and (rounds[:, -1, -1] - usual[:, -1] > less).any():
        return deal_from_both_ends(load, num_packs)
    bits = (num_packs - 1).bit_length()
    place = np.empty((rows, items), dtype=np.int64)
    pack = np.arange(num_packs)
    total = np.zeros((rows, num_packs))
    for last in range(items, 0, -num_packs):
        this_round = slice(last - num_packs, last)
        place[:, this_round] = pack[..., ::-1] + (items - last)
        total += load[:, this_round][:, ::-1]
        put_labels(total, pack, bits)
        total.sort(axis=1)
        pack = labels(total, bits)
    return place


def set_aside(load, sums, num_packs):
    """Find the packs of each row that are too heavy even with the lightest items.

    load: [rows, items], ascending; sums: [rows, items + 1], the sum of the items before each

    Pack k of them holds the k-th heaviest item and the k-th block of the lightest. Returns their
    number [rows], and the mean load of the other packs [rows].
    """
    light = load.shape[1] // num_packs - 1
    loads = np.diff(sums[:, : light * num_packs + 1 : light], axis=1)
    loads += load[:, : -num_packs - 1 : -1]
    rest = sums[:, -1:] - loads.cumsum(axis=1) + loads
    rest /= np.arange(num_packs, 0, -1)
    heavy = loads > rest
    heavy[:, -1] = False
    aside = heavy.argmin(axis=1)
    return aside, rest[np.arange(len(load)), aside]


def deal_from_both_ends(load, num_packs):
    """Deal as `deal`, but packs that a heavy item would take too far take a light one instead.

    Too far is above the mean even if items between the usual and the lightest followed. Packs that
    are too heavy in any case get the lightest items beforehand.
    """
    rows, items = load.shape
    capacity = items // num_packs
    bits = (num_packs - 1).bit_length()
    row, rank = np.arange(rows), np.arange(num_packs)
    start = row * items
    sums = np.zeros((rows, items + 1))
    load.cumsum(axis=1, out=sums[:, 1:])
    aside, mean = set_aside(load, sums, num_packs)
    packs = num_packs - aside
    # Places as if all packs were set aside; items of the others get theirs below.
    place = np.empty((rows, items), dtype=np.int64)
    place[:, items - num_packs :] = rank[::-1]
    turn = np.arange(items - num_packs)
    place[:, turn] = (1 + turn % (capacity - 1)) * num_packs + turn // (capacity - 1)
    pack = (rank + aside[:, None]) % num_packs
    waits = np.flatnonzero(rank >= packs[:, None])
    total = np.zeros((rows, num_packs))
    total.ravel()[waits] = 1e300
    # Items first to last - 1 of a row are left; so many packs take light ones in this round.
    first, last, light = aside * (capacity - 1), items - aside, 0 * aside
    for left in range(capacity - 1, -1, -1):
        heavy = rank < (packs - light)[:, None]
        item = np.where(heavy, (start + last)[:, None], (start + first + packs)[:, None]) - rank - 1
        item.ravel()[waits] = start[waits // num_packs]
        place.ravel()[item] = pack + (capacity - 1 - left) * num_packs
        total += load.ravel()[item]
        put_labels(total, pack, bits)
        total.sort(axis=1)
        pack = labels(total, bits)
        first += light
        last -= packs - light
        light = 0 * aside
        if left > 1:
            after = last - packs
            usual = (sums[row, after] - sums[row, first]) / ((left - 1) * packs)
            most = mean - load[row, after] - (left - 1) * (usual + load[row, first]) / 2
            light += np.count_nonzero(total > most[:, None], axis=1) - aside
    place[aside > 0, 0] = num_packs  # Waiting packs seemed to take it.
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
        if stride != STRIDES[-1]:
            apart *= swap
            both[:, :, :, 0] -= apart
            both[:, :, :, 1] += apart


def place(columns, num_replicas, num_gpus, number_bits):
    """Replicate and pack the experts of some layers, by `History.columns` of theirs.

    Returns the replicas of each expert [rows, experts] and what every slot holds [rows, slots]:
    expert << number_bits | number of the replica.
    """
    _, rows, experts = columns.shape
    spare = num_replicas - experts
    bits = number_bits + (experts - 1).bit_length()
    # A load of zero has no mantissa to carry a label.
    load = np.maximum(columns[0], 1e-30, dtype=np.float64)
    put_labels(load, np.arange(experts) << number_bits, bits)
    load.sort(axis=1)
    logcnt = np.ones((rows, experts), dtype=np.int64)
    if spare:
        # What one window alone shows as very hot is likely to cool down.
        alone = len(columns) == 1 and num_replicas >= 8 * num_gpus
        extra, count = replicate(load, spare, 1.2 if alone else 1.0, bits)
        hottest = labels(load[:, -count.shape[1] :], bits) >> number_bits
        np.put_along_axis(logcnt, hottest, count, axis=1)
        load = np.concatenate((load, extra), axis=1)
        load.sort(axis=1)

    at = deal(load, num_gpus) * rows + np.arange(rows)[:, None]
    # Rows come last, so that neighbours in memory are treated alike.
    held = np.empty((num_replicas // num_gpus, num_gpus, rows), dtype=np.int32)
    held.ravel()[at] = labels(load, bits)
    if len(columns) > 1:
        cell = (held >> number_bits) + np.arange(0, rows * experts, experts)
        replica = columns / logcnt.astype(np.float32)
        spread(held, replica.reshape(len(columns), -1).take(cell, axis=1))
    return logcnt, held.transpose(2, 1, 0).reshape(rows, num_replicas)


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Decide which expert every slot holds, from the last window's loads [layers, experts].

    GPU g holds slots g*S to (g+1)*S-1, S = num_replicas / num_gpus. Returns ``phy2log`` [layers,
    num_replicas], the expert in each slot; ``log2phy`` [layers, experts, X], the slots of each
    expert, then -1; ``logcnt`` [layers, experts], the replicas of each expert. All int64.
    """
    global history
    layers, experts = weight.shape
    if history.shape != (layers, experts):
        history = History(layers, experts)
    columns = history.columns(history.add(weight.to("cpu", torch.float32).numpy()))

    number_bits = (num_replicas - experts).bit_length()
    parts = np.array_split(columns, min(layers, -(-layers * experts // LOADS)), axis=1)
    placed = [place(part, num_replicas, num_gpus, number_bits) for part in parts]
    logcnt = np.concatenate([count for count, _ in placed])
    label = np.concatenate([slots for _, slots in placed], dtype=np.int64)

    most = int(logcnt.max())
    phy2log = label >> number_bits
    # label = expert << number_bits | number becomes expert * most + number.
    label -= phy2log * ((1 << number_bits) - most)
    log2phy = torch.empty((layers, experts * most), dtype=torch.int64)
    log2phy.view(torch.int8).fill_(-1)  # to fill bytes is faster
    log2phy.scatter_(1, torch.from_numpy(label), torch.arange(num_replicas).expand(layers, -1))
    return torch.from_numpy(phy2log), log2phy.view(layers, -1, most), torch.from_numpy(logcnt)


# EVOLVE-BLOCK-END


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Answer one window: see `rebalance_experts`."""
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

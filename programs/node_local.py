"""Every expert group on one node: the hierarchical policy in under a millisecond, with a forecast.

The policy is DeepSeek's: pack groups to nodes, give hot experts extra replicas within their node,
pack the replicas to the node's GPUs. One row of every array is one node of one layer. All three
stages sort numbers whose lowest bits say what they stand for, so that no gather follows. Loads are
forecast as in `programs/balanced.py`. Where nodes do not divide the groups it places freely.

Source: https://github.com/deepseek-ai/EPLB (hierarchical). Lineage: docs/lineage.md. Not covered:
which experts run hot together.
"""

from functools import lru_cache

import numpy as np
import torch

# EVOLVE-BLOCK-START
# How much less a window counts in the forecast than the one after it, the choice for two windows,
# the usual one, and how much worse than others that must do, a step away, to be given up.
DECAYS = np.array([0.0, 0.3, 0.5, 0.7, 0.85, 0.95])
CAREFUL, USUAL, DOUBT = 1, 2, 0.03
# Windows remembered, and the power of their number with which claims to replicas fall: the hottest
# experts are likely to cool.
MEMORY, POWER = 48, 1.2


def put_labels(value, label, bits):
    """Replace the lowest ``bits`` bits of positive float64 values by integer labels, in place."""
    number = value.view(np.int64)
    number &= -(1 << bits)
    number |= label


def labels(value, bits):
    return value.view(np.int64) & ((1 << bits) - 1)


@lru_cache(maxsize=8)
def claims(experts, spare):
    """List the claims load / replicas**POWER to spare replicas that can succeed, [candidates] each.

    Returns the claiming expert's position among the hottest min(experts, spare), ascending, the
    factor that turns its load into the claim, and a label: position << bits | replica number.
    """
    hot = min(experts, spare)
    # The expert of rank r can win spare / r at most.
    chances = spare // np.arange(1, hot + 1)
    position = np.repeat(np.arange(hot)[::-1], chances)
    number = 1 + np.arange(len(position)) - np.repeat(chances.cumsum() - chances, chances)
    return position, number**-POWER, position << spare.bit_length() | number


def replicate(load, spare, label_bits):
    """Give the spare replicas to the experts with the strongest claims, all at once.

    load: [rows, experts], ascending, with labels of ``label_bits`` bits whose replica number is
    zero; changed in place to the load of one replica

    Returns the loads of the spare replicas [rows, spare], labelled with the number of the replica
    as well, and the replicas [rows, hot] of the last ``hot`` experts; all others have one.
    """
    rows, experts = load.shape
    hot, number_bits = min(experts, spare), spare.bit_length()
    position, factor, candidate = claims(experts, spare)
    bits = number_bits + (hot - 1).bit_length()
    hottest = load[:, -hot:]
    claim = hottest.take(position, axis=1)
    claim *= factor
    put_labels(claim, candidate, bits)
    claim.partition(len(position) - spare, axis=1)
    chosen = labels(claim[:, -spare:], bits)
    cell = chosen >> number_bits
    cell += np.arange(0, rows * hot, hot)[:, None]
    count = 1 + np.bincount(cell.ravel(), minlength=rows * hot).reshape(rows, hot)
    label = labels(hottest, label_bits)
    hottest /= count
    put_labels(hottest, label, label_bits)
    extra = hottest.ravel().take(cell)
    extra.view(np.int64)[...] |= chosen & ((1 << number_bits) - 1)
    return extra, count


def deal(load, num_packs):
    """Give every pack one item a round, the lightest pack the heaviest of those that are left.

    load: [rows, items] float64, ascending; returns the items' places, pack by pack

    A pack is one integer: minus its load in fixed point, then the place that its next item takes,
    from the last to the first. An item is minus its load, then -1: adding it is all the upkeep.
    """
    rows, items = load.shape
    capacity = items // num_packs
    rounds = load.reshape(rows, capacity, num_packs)
    usual = rounds.mean(axis=2)
    # Of one more item than usual, what the lighter ones of the rounds to come do not make good.
    less = usual - rounds[:, :, 0]
    over = rounds[:, :, -1] - usual - less.cumsum(axis=1) + less
    if capacity > 2 and (over.max(axis=1) > 0.05 * usual.sum(axis=1)).any():
        return deal_from_both_ends(load, num_packs)
    mask = (1 << (items - 1).bit_length()) - 1
    item = (load * (-(2.0**61) / (capacity * load[:, -1].max()))).astype(np.int64)
    item |= mask
    place = np.empty((rows, items), dtype=np.int64)
    pack = np.tile(np.arange(capacity - 1, items, capacity), (rows, 1))
    for left in range(capacity, 0, -1):
        # The two rounds before the last in one order overshoot by what the last can close.
        if left != 2 or capacity < 4:
            pack.sort(axis=1)
        this_round = slice((left - 1) * num_packs, left * num_packs)
        np.bitwise_and(pack, mask, out=place[:, this_round])
        pack += item[:, this_round]
    return place


def set_aside(load, sums, num_packs):
    """Find the packs of each row that are too heavy even with the lightest items.

    Pack k holds the k-th heaviest item and the k-th block of the lightest. Returns how many packs
    are too heavy and the mean load of the others, [rows] each, and all places.
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
    block = item // light * (light + 1) + 1 + item % light
    place = np.where(item < items - num_packs, block, (items - 1 - item) * (light + 1))
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
        place.ravel()[item] = pack * capacity + capacity - 1 - left
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
    place[aside > 0, 0] = 1  # Packs that wait seemed to take it.
    return place


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
        far = np.abs(np.arange(len(DECAYS)) - (USUAL if self.windows > 2 else CAREFUL))
        return self.forecasts[(self.errors + DOUBT * far).argmin()]


history = History(0, 0)


def groups_by_node(load, num_nodes):
    """Pack whole groups to nodes, by their ``load`` [layers, groups], which is spoilt.

    Returns [layers * groups], ``layer * groups + group`` of each group, node after node.
    """
    layers, groups = load.shape
    bits = (groups - 1).bit_length()
    put_labels(load, np.arange(groups), bits)
    load.sort(axis=1)
    first = np.arange(0, layers * groups, groups)[:, None]
    order = np.empty(layers * groups, dtype=np.int64)
    order[deal(load, num_nodes) + first] = labels(load, bits) + first
    return order


def reverse_maps(label, slot, bits, experts, most):
    """Return ``phy2log`` and ``log2phy`` as `rebalance_experts` does.

    label, slot: [layers, num_replicas], expert << bits | number of each replica, and its slot
    """
    slot, expert = torch.from_numpy(slot), label >> bits
    phy2log = torch.empty(slot.shape, dtype=torch.int64)
    phy2log.scatter_(1, slot, torch.from_numpy(expert))
    # expert << bits | number becomes expert * most + number.
    expert *= (1 << bits) - most
    label -= expert
    log2phy = torch.full((len(slot), experts * most), -1)
    log2phy.scatter_(1, torch.from_numpy(label), slot)
    return phy2log, log2phy.view(len(slot), experts, most)


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Decide which expert every slot holds, from the last window's loads [layers, experts].

    Returns ``phy2log`` [layers, num_replicas], the expert in each slot; ``log2phy`` [layers,
    experts, X], the slots of each expert, then -1; ``logcnt`` [layers, experts], its replicas.
    """
    global history
    layers, experts = weight.shape
    if num_groups % num_nodes:
        num_groups, num_nodes = 1, 1
    if history.shape != (layers, experts):
        history = History(layers, experts)
    mix = history.add(weight.to("cpu", torch.float32).numpy())[: history.windows]
    known = torch.from_numpy(history.loads[: history.windows])
    load = torch.mv(known.T, torch.from_numpy(mix.astype(np.float32))).numpy()
    # A load of zero has no mantissa to carry a label.
    load = np.maximum(load, 1e-30, dtype=np.float64).reshape(layers, experts)
    groups = groups_by_node(load.reshape(layers, num_groups, -1).sum(axis=2), num_nodes)

    spare = (num_replicas - experts) // num_nodes
    number_bits = spare.bit_length()
    bits = number_bits + (experts - 1).bit_length()
    put_labels(load, np.arange(experts) << number_bits, bits)
    load = load.reshape(layers * num_groups, -1)[groups].reshape(layers * num_nodes, -1)
    load.sort(axis=1)
    most, logcnt = 1, torch.ones(layers, experts, dtype=torch.int64)
    if spare:
        extra, count = replicate(load, spare, bits)
        hottest = (labels(load[:, -count.shape[1] :], bits) >> number_bits).reshape(layers, -1)
        logcnt.scatter_(1, torch.from_numpy(hottest), torch.from_numpy(count).view(layers, -1))
        most = int(count.max())
        load = np.concatenate((load, extra), axis=1)
        load.sort(axis=1)
    slot = deal(load, num_gpus // num_nodes).reshape(layers, num_nodes, -1)
    slot += np.arange(0, num_replicas, num_replicas // num_nodes)[:, None]
    label, slot = (each.reshape(layers, -1) for each in (labels(load, bits), slot))
    return *reverse_maps(label, slot, number_bits, experts, most), logcnt


# EVOLVE-BLOCK-END

run_eplb = rebalance_experts

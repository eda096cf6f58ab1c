"""Every expert group on one node: DeepSeek's hierarchical policy in a millisecond, on a forecast.

Groups are packed to nodes, hot experts get further replicas within their node, and replicas are
packed to the node's GPUs. Where loads of a group rise and fall together, each round of dealing is
of one group, so that its replicas come to lie apart. Loads are forecast as in
`programs/balanced.py`. One row of every array is one node of one layer; where nodes do not divide
the groups all is one node.

Source: https://github.com/deepseek-ai/EPLB (hierarchical). Lineage: docs/lineage.md. Not covered:
which experts of different groups run hot together.
"""

import numpy as np
import torch

# EVOLVE-BLOCK-START
# How much less a window counts in the forecast than the one after it, and how much smaller errors
# must be than those of the third, the usual choice; windows remembered; how many times as far apart
# as by chance groups are whose loads rise together.
DECAYS = np.array([0.0, 0.3, 0.5, 0.7, 0.85, 0.95])
DOUBTS = np.array([0.06, 0.03, 0.0, 0.03, 0.06, 0.09])
MEMORY, TOGETHER = 48, 2


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
    """Give spare replicas to the largest claims load / replicas of ``load`` [rows, experts].

    Returns the loads of all replicas, ascending, and their labels, expert * most + number, [rows,
    slots] each, and the replicas of each expert [rows, experts], ``most`` at most.
    """
    rows, experts = load.shape
    hot = min(experts, spare)
    # Of the claims the expert of rank r can win spare / r: ascending rank and descending divisor
    # of each, so that of claims too close to tell apart an expert wins the earlier one.
    chances = spare // np.arange(1, hot + 1)
    rank = np.repeat(np.arange(experts - 1, experts - 1 - hot, -1), chances)
    number = (np.repeat(chances.cumsum(), chances) - np.arange(len(rank))).astype(np.int32)
    hottest, start = load.copy(), np.arange(0, load.size, experts)[:, None]
    expert = sort_labelled(hottest, np.arange(experts, dtype=np.int32))
    claim = hottest.take(rank, axis=1) / number.astype(np.float32)
    chosen = sort_labelled(claim, np.arange(len(rank), dtype=np.int32))[:, len(rank) - spare :]
    expert, number = expert.take(rank.take(chosen) + start), number.take(chosen)
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


def deal(load, group, num_packs, whole):
    """Give every pack one item a round, the lightest pack the heaviest; a round is of one group.

    load, group: [rows, items], ascending by load; ``whole``: items may be far heavier than others
    Returns the items' slots, pack * capacity + round.
    """
    rows, items = load.shape
    capacity, row, bits = items // num_packs, np.arange(rows)[:, None], items.bit_length()
    # Two slots a pack are for a heavy and a light item, whatever their groups.
    group = group << bits if capacity > 2 else 0 * group
    item = group | np.arange(items - 1, -1, -1, dtype=np.int32)
    item.sort(axis=1)
    item = items - 1 - (item & (1 << bits) - 1).reshape(rows, capacity, num_packs)
    item.sort(axis=2)
    item = item + row[:, :, None] * items
    # Rounds of widely different loads come first, so that the others can make them good.
    rounds = load.take(item)
    order = (rounds[:, :, 0] - rounds[:, :, -1]).argsort(axis=1)
    pack = np.arange(num_packs, dtype=np.int32)
    total = np.zeros((rows, num_packs), dtype=np.float32)
    slot = np.empty(load.shape, dtype=np.int64)
    for turn, chosen in enumerate(item[row, order].transpose(1, 0, 2)[:, :, ::-1]):
        slot.ravel()[chosen] = pack * capacity + turn
        total += load.take(chosen)
        pack = sort_labelled(total, pack)
    if whole and capacity > 2:
        rounds = rounds[row, order]
        usual = rounds.mean(axis=2)
        # Of one more item than usual, what the lighter ones of the rounds to come do not make good.
        less = usual - rounds[:, :, 0]
        over = rounds[:, :, -1] - usual - less[:, ::-1].cumsum(axis=1)[:, ::-1] + less
        far = np.flatnonzero(over.max(axis=1) > 0.05 * usual.sum(axis=1))
        if len(far):
            slot[far] = deal_from_both_ends(load[far], num_packs)
    return slot


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


def groups_by_node(load, num_nodes):
    """Pack whole groups to nodes, by their ``load`` [layers, groups].

    Returns layer * groups + group of each, node after node, [layers * groups].
    """
    layers, groups = load.shape
    size, row = groups // num_nodes, np.arange(layers)
    item = load.argsort(axis=1).reshape(layers, size, num_nodes)
    # Heavy and light ones meet, and two a node can be no better.
    item[:, 1::2] = item[:, 1::2, ::-1]
    item = item.transpose(0, 2, 1).reshape(layers, groups) + row[:, None] * groups
    if num_nodes == 1 or size <= 2:
        return item.ravel()
    one, other = np.triu_indices(groups, 1)
    for _ in range(2):
        # The swap that most lowers the sum of squares.
        share = load.take(item)
        total = share.reshape(layers, num_nodes, size).sum(axis=2)
        apart = share[:, one] - share[:, other]
        gain = apart * (total[:, one // size] - total[:, other // size] - apart)
        best = gain.argmax(axis=1)
        better = np.flatnonzero(gain[row, best] > 0)
        pair = np.stack((one, other))[:, best[better]]
        item[better, pair] = item[better, pair[::-1]]
    return item.ravel()


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Decide which expert every slot holds, from the last window's loads [layers, experts].

    Returns ``phy2log`` [layers, num_replicas], the expert in each slot; ``log2phy`` [layers,
    experts, X], the slots of each expert, then -1; ``logcnt`` [layers, experts], its replicas.
    """
    global history
    layers, experts = weight.shape
    if num_groups % num_nodes:
        num_nodes = 1
    if history.shape != (layers, experts):
        history = History(layers, experts)
    # A load of zero has no mantissa to carry a label.
    load = np.maximum(history.add(weight.to("cpu", torch.float32).numpy()), 1e-30)
    size, local, spare = experts // num_groups, experts // num_nodes, num_replicas - experts
    by_group = load.reshape(layers, num_groups, size).sum(axis=2)
    # How far groups are apart, and would be if experts were popular each for itself.
    apart, chance = np.square(by_group / size).mean() - 1, (np.square(load).mean() - 1) / size
    group = groups_by_node(by_group, num_nodes)
    # The expert at each place, node after node, counted through all layers.
    expert = (group[:, None] * size + np.arange(size)).ravel()

    load, held, count = replicate(load.take(expert).reshape(-1, local), spare // num_nodes)
    most, start = int(count.max()), np.arange(0, layers * experts, local)[:, None]
    group = held // (most * (size if apart > TOGETHER * chance else local))
    slot = deal(load, group, num_gpus // num_nodes, spare < num_gpus)
    node = np.arange(0, num_replicas, num_replicas // num_nodes)[:, None]
    slot = (slot.reshape(layers, num_nodes, -1) + node).reshape(slot.shape)
    place, before = held // most, np.arange(layers).repeat(num_nodes)[:, None]
    chosen, number = expert.take(place + start), held - place * most
    at = slot + before * num_replicas, chosen * most + number, chosen - before * experts, slot
    cell, label, chosen, slot = (torch.from_numpy(each.ravel()) for each in at)
    phy2log = torch.empty_like(cell).scatter_(0, cell, chosen)
    log2phy = torch.full((layers * experts * most,), -1).scatter_(0, label, slot)
    logcnt = np.empty(layers * experts, dtype=np.int64)
    logcnt[expert] = count.ravel()
    logcnt = torch.from_numpy(logcnt).view(layers, experts)
    return phy2log.view(layers, -1), log2phy.view(layers, experts, most), logcnt


# EVOLVE-BLOCK-END

run_eplb = rebalance_experts

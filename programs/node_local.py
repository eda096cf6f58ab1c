"""Every expert group on one node: DeepSeek's hierarchical policy in a millisecond, on a forecast.

Groups are packed to nodes, hot experts get further replicas within their node, and replicas are
dealt to the node's GPUs in rounds, or one by one where hot experts stand alone. Where loads of a
group rise and fall together, each round is of one group, so that its replicas come to lie apart.
Loads are forecast as in `programs/balanced.py`. One row of every array is one node of one layer;
where nodes do not divide the groups all is one node.

Source: https://github.com/deepseek-ai/EPLB (hierarchical). Lineage: docs/lineage.md. Not covered:
which experts of different groups run hot together.
"""

import numpy as np
import torch

# EVOLVE-BLOCK-START
# How much less a window counts in the forecast than the one after it, and how much smaller errors
# must be than those of the third, the usual choice; windows remembered; how much further apart than
# by chance groups are that rise together, experts cut off at a load.
DECAYS = np.array([0.0, 0.3, 0.5, 0.7, 0.85, 0.95])
DOUBTS = np.array([0.06, 0.03, 0.0, 0.03, 0.06, 0.09])
MEMORY, TOGETHER, HOT = 48, 2, 3
# Unevenness that dealing one by one may mend: of all and of one slot; and of all with groups apart,
# where less than one slot a GPU is spare, so that hot experts stand alone, and elsewhere.
UNEVEN, UNEVEN_APART = (0.02, 0.1), (0.05, 0.2)


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


def deal(load, group, num_packs, uneven):
    """Return the cell of the item in every place of equal packs, [capacity, packs, rows].

    load, group: [rows, items], float32, ascending, and int32. Rounds are of one group as far as
    possible, unless that leaves the heaviest pack ``uneven`` of the mean above the least.
    """
    items, bits = load.shape[1], (load.shape[1] - 1).bit_length()
    item = group << bits | np.arange(items, dtype=np.int32)
    item.sort(axis=1)
    cell, total = deal_rounds(load, item & (1 << bits) - 1, num_packs)
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


def groups_by_node(load, num_nodes):
    """Pack whole groups to nodes, by their ``load`` [layers, groups].

    Returns layer * groups + group of each, node after node, [layers * groups].
    """
    layers, groups = load.shape
    start = np.arange(0, load.size, groups)[:, None]
    ascending = load.argsort(axis=1) + start
    if num_nodes == 1:
        return ascending.ravel()
    cell = deal(load.take(ascending), np.zeros(load.shape, np.int32), num_nodes, 0)
    item = ascending.take(np.sort(cell.T, axis=2)).reshape(layers, groups)
    size = groups // num_nodes
    if size > 2:
        # The swap that most lowers the sum of squares; two a node can be no better.
        one, other = np.triu_indices(groups, 1)
        share = load.take(item)
        total = share.reshape(layers, num_nodes, size).sum(axis=2)
        apart = share[:, one] - share[:, other]
        gain = apart * (total[:, one // size] - total[:, other // size] - apart)
        best = gain.argmax(axis=1)
        better = np.flatnonzero(gain.max(axis=1) > 0)
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
    heat = np.minimum(load, HOT)
    mean = heat.reshape(layers, num_groups, size).mean(axis=2)
    chance = (np.square(heat).mean() - np.square(mean.mean(axis=1)).mean()) / size
    group = groups_by_node(by_group, num_nodes)
    # The expert at each place, node after node, counted through all layers.
    expert = (group[:, None] * size + np.arange(size)).ravel()

    load = load.take(expert).reshape(-1, local)
    count, *spares = replicate(load, spare // num_nodes)
    most = int(count.max())
    load, label = replicas(load, count, *spares)
    together = mean.var(axis=1).mean() > TOGETHER * chance and num_replicas > 2 * num_gpus
    uneven = min(UNEVEN[0], UNEVEN[1] * num_gpus / num_replicas)
    if together:
        uneven = UNEVEN_APART[spare >= num_gpus]
    group = label // np.int32(most * (size if together else local))
    cell = deal(load, group, num_gpus // num_nodes, uneven)
    held = label.take(cell).T.reshape(len(load), -1)
    place = held // np.int32(most) + np.arange(0, layers * experts, local)[:, None]
    phy2log = expert.take(place).reshape(layers, num_replicas)
    phy2log -= np.arange(0, layers * experts, experts)[:, None]
    label = torch.from_numpy(phy2log * most + (held % np.int32(most)).reshape(phy2log.shape))
    log2phy = torch.full((layers, experts * most), -1)
    log2phy.scatter_(1, label, torch.arange(num_replicas).expand(layers, -1))
    logcnt = np.empty((layers, experts), dtype=np.int64)
    logcnt.ravel()[expert] = count.ravel()
    return torch.from_numpy(phy2log), log2phy.view(layers, -1, most), torch.from_numpy(logcnt)


# EVOLVE-BLOCK-END

run_eplb = rebalance_experts

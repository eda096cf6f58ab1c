"""Nearly the best balancedness with few expert migrations: repairs the placement instead of redoing it.

Moving an expert's weights costs more than deciding to, and a placement made from scratch moves
nearly all of them although GPUs are interchangeable. Here a window's placement starts from the last
one, and at most `MOVES` of the slots change, most of them only where it pays:

1. Replicas. The expert with the hottest replica takes a slot from the expert that misses one least,
   while that cools the hottest replica clearly.
2. Swaps. The hottest GPUs, each paired with one of the coolest, swap the two replicas that lower the
   sum of squared GPU loads most, summed over the windows that the forecast was made of; a swap that
   gains less than `WORTHWHILE` is left. Repeated until no pair gains or the moves are used up.

The forecast is that of `programs/balanced.py`; the first placement is that of
`programs/fastest.py` with as many swaps as it takes. Since slots keep their experts, no relabelling
of GPUs is needed.

Lineage: composed by hand and not found by an evolution run. The exchange of replicas is a
local search on greedy replication (DeepSeek's EPLB), the swaps are the pairwise interchange of the
load-balancing literature.

Not covered: the distance of a move (between nodes or within one), and nodes and groups.
"""

from functools import lru_cache

import numpy as np
import torch


# EVOLVE-BLOCK-START
# Share of the slots that may receive another expert in one window.
MOVES = 0.25
# Least gain of a swap, as the fall of squared load in units of the mean GPU load squared.
WORTHWHILE = 5e-4
# How much hotter a replica must be than the one it replaces would make its expert.
CLEARLY = 1.1
# How much less a window counts in the forecast than the one after it: what to choose from, the
# usual choice, and how much worse than others it must do, a step away, to be given up.
DECAYS = np.array([0.0, 0.3, 0.5, 0.7, 0.85, 0.95])
USUAL, DOUBT = 4, 0.1
PASSES = 8


@lru_cache(maxsize=8)
def quotient_candidates(experts, spare):
    """List what greedy replication can choose from: position and replicas so far, [candidates].

    Positions are those of the hottest min(experts, spare) experts in ascending order.
    """
    hot = min(experts, spare)
    replicas = [np.arange(1, spare // rank + 1) for rank in range(1, hot + 1)]
    position = np.repeat(np.arange(hot - 1, -1, -1), [len(each) for each in replicas])
    return position, np.concatenate(replicas)


def put_labels(value, label, bits):
    """Replace the lowest ``bits`` bits of positive float64 values by integer labels, in place."""
    number = value.view(np.int64)
    number &= -(1 << bits)
    number |= label


def labels(value, bits):
    """Read the labels back."""
    return value.view(np.int64) & ((1 << bits) - 1)


def replicate(load, spare, label_bits):
    """Give each spare replica to the expert whose replicas are the hottest, all at once.

    load: [rows, experts], ascending, with labels of ``label_bits`` bits, those of a replica's number
    zero; changed in place to the load of one replica
    spare: replicas per row beyond one an expert

    Returns the loads of the spare replicas [rows, spare], labelled with the number of the replica
    as well, and the replicas [rows, hot] of the last ``hot`` experts; all others have one.
    """
    rows, experts = load.shape
    hot = min(experts, spare)
    rank, replicas = quotient_candidates(experts, spare)
    bits = len(rank).bit_length()
    hottest = load[:, -hot:]
    quotient = hottest.take(rank, axis=1)
    quotient /= replicas
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


def pack_in_rounds(load, num_packs):
    """Pack items to packs of equal size; in each round every pack receives one item.

    load: [rows, items] float64 in ascending order; num_packs divides the items

    Returns [rows, items] int64, the place of each item: pack * capacity + position in the pack.
    """
    rows, items = load.shape
    capacity = items // num_packs
    bits = (num_packs - 1).bit_length()
    place = np.empty((rows, items), dtype=np.int64)
    pack = np.arange(num_packs)
    total = np.zeros((rows, num_packs))
    for position in range(capacity):
        last = items - position * num_packs
        this_round = slice(last - num_packs, last)
        # The packs stand in ascending order too, and the lightest takes the heaviest item.
        place[:, this_round] = (pack * capacity + position)[..., ::-1]
        total += load[:, this_round][:, ::-1]
        put_labels(total, pack, bits)
        total.sort(axis=1)
        pack = labels(total, bits)
    return place


class History:
    """The last windows, each layer scaled to a mean load of one, and what they teach.

    loads: [layers, experts, MEMORY] float32; a column is one window, the oldest is overwritten
    steps: squared distance of each window to the one before, oldest first
    errors: [decays] squared error of the forecast that each of `DECAYS` would have made, in units
    of the steps, fading
    """

    MEMORY = 8

    def __init__(self, layers, experts):
        self.loads = np.zeros((layers, experts, self.MEMORY), dtype=np.float32)
        self.windows = 0
        self.steps = []
        self.errors = np.zeros(len(DECAYS))
        self.forecasts = None

    def add(self, load):
        """Remember a window [layers, experts]; return the weight of each column in the forecast."""
        column = self.windows % self.MEMORY
        self.loads[:, :, column] = load / np.maximum(load.mean(axis=1, keepdims=True), 1e-30)
        self.windows += 1
        flat = self.loads.reshape(-1, self.MEMORY)
        product = (flat.T @ flat).astype(np.float64) / len(flat)
        square = np.diagonal(product)
        distance = square + square[column] - 2 * product[column]
        if self.windows > 1:
            self.steps = [*self.steps, distance[column - 1]][-2 * self.MEMORY :]

        age = (column - np.arange(self.MEMORY)) % self.MEMORY
        # Windows that correlate by less than a half are not alike, whatever is usual.
        alike = distance <= min(2 * self.usual_step(), square[column] - 1)
        if self.windows > 1 and alike[column - 1] and self.steps[-1] > 0:
            self.judge(product, column)
        alike[column] = True
        weight = (alike & (age < self.windows)) * DECAYS[:, None] ** age
        self.forecasts = weight / weight.sum(axis=1, keepdims=True)
        best = (self.errors + DOUBT * np.abs(np.arange(len(DECAYS)) - USUAL)).argmin()
        return self.forecasts[best].astype(np.float32)

    def judge(self, product, column):
        """Add up how far the last forecasts were from the window that came, in ``column``."""
        forecast = self.forecasts.copy()
        forecast[:, column] = 0  # overwritten since
        forecast /= forecast.sum(axis=1, keepdims=True)
        error = product[column, column] - 2 * forecast @ product[column]
        error += ((forecast @ product) * forecast).sum(axis=1)
        self.errors = 0.9 * self.errors + error / self.steps[-1]

    def usual_step(self):
        """How far apart consecutive windows of one regime usually are."""
        if len(self.steps) < 3:
            return min(self.steps, default=0.0)
        return sorted(self.steps)[len(self.steps) // 2]


def first_placement(load, num_replicas, num_gpus):
    """Place the replicas of ``load`` [layers, experts] from scratch; returns phy2log."""
    layers, experts = load.shape
    spare = num_replicas - experts
    number_bits = spare.bit_length()
    bits = number_bits + (experts - 1).bit_length()
    load = np.maximum(load, 1e-30, dtype=np.float64)
    put_labels(load, np.arange(experts) << number_bits, bits)
    load.sort(axis=1)
    if spare:
        extra, _ = replicate(load, spare, bits)
        load = np.concatenate((load, extra), axis=1)
        load.sort(axis=1)
    phy2log = np.empty((layers, num_replicas), dtype=np.int64)
    np.put_along_axis(phy2log, pack_in_rounds(load, num_gpus), labels(load, bits) >> number_bits, 1)
    return phy2log


def count_replicas(phy2log, experts):
    """[layers, experts]: the slots of ``phy2log`` [layers, slots] that hold each expert."""
    layers = len(phy2log)
    cell = phy2log + np.arange(0, layers * experts, experts)[:, None]
    return np.bincount(cell.ravel(), minlength=layers * experts).reshape(layers, experts)


def exchange_replicas(phy2log, load, num_gpus, moves):
    """Give slots of experts that can spare them to the hottest ones, in place.

    phy2log: [layers, slots]; load: [layers, experts]; moves: [layers], slots that may change, in
    place too
    """
    layers, slots = phy2log.shape
    row = np.arange(layers)
    count = count_replicas(phy2log, load.shape[1])
    while True:
        replica = load / count
        hot = replica.argmax(axis=1)
        without = np.where(count > 1, load / np.maximum(count - 1, 1), np.inf)
        spare = without.argmin(axis=1)
        active = (replica[row, hot] > CLEARLY * without[row, spare]) & (moves > 0)
        if not active.any():
            return
        slot_load = np.take_along_axis(replica, phy2log, axis=1)
        gpu_load = slot_load.reshape(layers, num_gpus, -1).sum(axis=2)
        # The coolest GPU with a replica to spare, better one that does not hold the hot expert.
        cost = np.repeat(gpu_load, slots // num_gpus, axis=1)
        holds = (phy2log == hot[:, None]).reshape(layers, num_gpus, -1).any(axis=2)
        cost += np.repeat(holds, slots // num_gpus, axis=1) * gpu_load.sum(axis=1, keepdims=True)
        slot = np.where(phy2log == spare[:, None], cost, np.inf).argmin(axis=1)
        phy2log[row[active], slot[active]] = hot[active]
        count[row[active], hot[active]] += 1
        count[row[active], spare[active]] -= 1
        moves[active] -= 1


def swap_replicas(phy2log, scenarios, weight, num_gpus, moves):
    """Let hot and cool GPUs swap replicas, in place, while that is worthwhile.

    phy2log: [layers, slots]; scenarios: [layers, slots, scenarios], loads of the slots in units of
    the mean GPU load, squares summed with ``weight``; moves: [layers], slots that may change
    """
    layers, slots, width = scenarios.shape
    capacity = slots // num_gpus
    pairs = num_gpus // 2
    row = np.arange(layers)[:, None]
    every_pair = np.arange(pairs)
    scenarios = scenarios * np.sqrt(weight)
    for _ in range(PASSES):
        total = scenarios.reshape(layers, num_gpus, capacity, width).sum(axis=2)
        order = np.square(total).sum(axis=2).argsort(axis=1)
        cool, hot = order[:, :pairs], order[:, ::-1][:, :pairs]
        apart = total[row, hot] - total[row, cool]
        of_gpu = scenarios.reshape(layers, num_gpus, capacity, width)
        give, take = of_gpu[row, hot], of_gpu[row, cool]
        # |hot - d|^2 + |cool + d|^2 falls by 2 d (hot - cool) - 2 d^2 with d = give - take.
        linear_give = np.einsum("lpsc,lpc->lps", give, apart) - np.square(give).sum(axis=3)
        linear_take = np.einsum("lpsc,lpc->lps", take, apart) + np.square(take).sum(axis=3)
        gain = linear_give[:, :, :, None] - linear_take[:, :, None, :]
        gain += 2 * np.matmul(give, take.swapaxes(2, 3))
        gain = 2 * gain.reshape(layers, pairs, capacity * capacity)
        best = gain.argmax(axis=2)
        pays = gain[row, every_pair, best] > WORTHWHILE
        pays &= 2 * pays.cumsum(axis=1) <= moves[:, None]
        if not pays.any():
            return
        layer, pair = np.nonzero(pays)
        best = best[layer, pair]
        here = hot[layer, pair] * capacity + best // capacity
        there = cool[layer, pair] * capacity + best % capacity
        for array in (phy2log, scenarios):
            array[layer, here], array[layer, there] = array[layer, there], array[layer, here]
        moves -= 2 * pays.sum(axis=1)


class State:
    """What is remembered from window to window for one shape of problem."""

    def __init__(self, shape):
        self.shape = shape
        self.history = History(*shape[:2])
        self.phy2log = None


state = State((0, 0))


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Decide which expert every slot holds.

    weight: [layers, experts], tokens routed to each expert in the last window
    num_replicas: slots per layer; GPU g holds slots g*S to (g+1)*S-1, S = num_replicas / num_gpus

    Returns ``phy2log`` [layers, num_replicas], the expert in each slot; ``log2phy``
    [layers, experts, X], the slots of each expert, then -1; ``logcnt`` [layers, experts], the
    replicas of each expert. All int64.
    """
    global state
    layers, experts = weight.shape
    if state.shape != (layers, experts, num_replicas, num_gpus):
        state = State((layers, experts, num_replicas, num_gpus))
    loads = state.history.loads
    column_weight = state.history.add(weight.to("cpu", torch.float64).numpy())
    forecast = np.maximum(loads @ column_weight, 1e-30)

    if state.phy2log is None:
        state.phy2log = first_placement(forecast, num_replicas, num_gpus)
        moves = np.full(layers, PASSES * num_replicas)
    else:
        moves = np.full(layers, int(MOVES * num_replicas))
    phy2log = state.phy2log
    exchange_replicas(phy2log, forecast, num_gpus, moves)
    logcnt = count_replicas(phy2log, experts)
    used = np.flatnonzero(column_weight)
    scenarios = loads[:, :, used] / logcnt[:, :, None].astype(np.float32)
    row = np.arange(layers)[:, None]
    scenarios = scenarios[row, phy2log] * np.float32(num_gpus / experts)
    swap_replicas(phy2log, scenarios, column_weight[used], num_gpus, moves)

    slot = phy2log.argsort(axis=1, kind="stable")
    expert = np.take_along_axis(phy2log, slot, axis=1)
    first = logcnt.cumsum(axis=1) - logcnt
    number = np.arange(num_replicas) - np.take_along_axis(first, expert, axis=1)
    log2phy = np.full((layers, experts, logcnt.max()), -1)
    log2phy[row, expert, number] = slot
    return torch.tensor(phy2log), torch.from_numpy(log2phy), torch.from_numpy(logcnt)


# EVOLVE-BLOCK-END


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Answer one window: see `rebalance_experts`."""
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

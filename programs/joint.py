"""Replication and packing decided together, for deployments of few slots and layers.

Greedy replication makes the hottest replica as cool as can be, whatever stands beside it. Where
GPUs hold few slots this is far from the best: here single replicas are moved from experts that lose
least to the hottest ones, each move is judged by packing anew, and the best counts seen are kept.
Packing is longest processing time first with room in mind: a free slot counts as the mean of the
items left, so that hot experts stand alone with the lightest; where plain LPT does better, it
stands. The forecast is that of `programs/balanced.py`.

Sources: https://github.com/deepseek-ai/EPLB for greedy replication; Graham (1969) for LPT; Glover
(1989) for tabu search. Lineage: docs/lineage.md. Not covered: nodes, groups.
"""

import numpy as np
import torch

# EVOLVE-BLOCK-START
# How much less a window counts in the forecast than the one after it, the choice for two windows,
# the usual one, and how much worse than others that must do, a step away, to be given up.
DECAYS = np.array([0.0, 0.3, 0.5, 0.7, 0.85, 0.95])
CAREFUL, USUAL, DOUBT = 1, 2, 0.03
# Windows remembered.
MEMORY = 48
# Slots of a GPU up to which counts are searched, turns at most, and replicas to pack at most.
FEW, TURNS, TRIED = 4, 32, 100_000
# Experts that may give a replica, and that may take one; turns for which it is kept.
GIVERS, TAKERS, KEPT = 4, 6, 3


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


def replicate(load, slots):
    """Give every spare slot to the expert with the hottest replica; returns [rows, experts]."""
    row = np.arange(len(load))
    count = np.ones(load.shape, dtype=np.int64)
    replica = load.copy()
    for _ in range(slots - load.shape[1]):
        hottest = replica.argmax(axis=1)
        count[row, hottest] += 1
        replica[row, hottest] = load[row, hottest] / count[row, hottest]
    return count


def in_order(number):
    """Columns of integers [rows, columns] in ascending order, the first of equal ones first."""
    columns = number.shape[1]
    label = number * columns + np.arange(columns)
    label.sort(axis=1)
    return label % columns


def pack(load, count, gpus, ahead=1.0):
    """Pack the replicas of ``load`` [rows, experts] by ``count`` to GPUs of equal size.

    ahead: how much of what is left to place a free slot counts for; next to nothing is plain LPT

    Returns the experts on each GPU [rows, gpus, capacity] and the loads of the GPUs [rows, gpus].
    """
    rows, experts = load.shape
    expert = np.repeat(np.tile(np.arange(experts), rows), count.ravel()).reshape(rows, -1)
    item = np.take_along_axis(load / count, expert, axis=1)
    order = np.argsort(-item, axis=1)
    expert, item = (np.take_along_axis(each, order, axis=1) for each in (expert, item))
    capacity = item.shape[1] // gpus
    if capacity == 2:
        # The heaviest with the lightest: no packing has a cooler hottest GPU.
        held = np.stack((expert[:, :gpus], expert[:, : gpus - 1 : -1]), axis=2)
        return held, item[:, :gpus] + item[:, : gpus - 1 : -1]
    mean = item[:, ::-1].cumsum(axis=1)[:, ::-1] / np.arange(item.shape[1], 0, -1)
    mean *= ahead
    total, room = np.zeros(rows * gpus), np.full((rows, gpus), float(capacity))
    first, chosen = np.arange(0, rows * gpus, gpus), np.empty(item.T.shape, dtype=np.int64)
    for gpu, each, rest in zip(chosen, item.T.copy(), mean.T.copy()):
        full = room * rest[:, None]
        full += total.reshape(room.shape)
        np.add(full.argmin(axis=1), first, out=gpu)
        total[gpu] += each
        left = room.take(gpu) - 1
        # No room for ever.
        left[left == 0] = np.inf
        room.ravel()[gpu] = left
    held = np.take_along_axis(expert, in_order(chosen.T), axis=1).reshape(rows, gpus, capacity)
    return held, total.reshape(rows, gpus)


def search(load, count, gpus, turns):
    """Move replicas one by one, if need be uphill; return the counts with the coolest hottest GPU.

    load, count: [rows, experts]. Every turn makes the move to the least sum of squared GPU loads;
    an expert that got a replica keeps it for a while.
    """
    rows, experts = load.shape
    row, one = np.arange(rows), np.eye(experts, dtype=np.int64)
    kept = np.zeros((rows, experts))
    best, coolest = count, pack(load, count, gpus)[1].max(axis=1)
    for turn in range(turns):
        loss = np.where((count > 1) & (kept <= turn), load / np.maximum(count - 1, 1), np.inf)
        giver = loss.argsort(axis=1)[:, :GIVERS]
        taker = (-load / count).argsort(axis=1)[:, :TAKERS]
        giver, taker = np.repeat(giver, taker.shape[1], 1), np.tile(taker, giver.shape[1])
        may = (giver != taker) & (loss[row[:, None], giver] < np.inf)
        trial = count[:, None] + (one[taker] - one[giver]) * may[:, :, None]
        many = np.repeat(load, trial.shape[1], axis=0)
        total = pack(many, trial.reshape(-1, experts), gpus)[1].reshape(rows, -1, gpus)
        move = np.where(may, np.square(total).sum(axis=2), np.inf).argmin(axis=1)
        count, hottest = trial[row, move], total[row, move].max(axis=1)
        kept[row, taker[row, move]] = turn + 1 + KEPT
        best = np.where((hottest < coolest)[:, None], count, best)
        coolest = np.minimum(coolest, hottest)
    return best


def reverse_maps(phy2log, experts):
    """Return ``log2phy`` [layers, experts, X], then -1, and ``logcnt`` [layers, experts]."""
    layers, slots = phy2log.shape
    cell = phy2log + np.arange(0, layers * experts, experts)[:, None]
    logcnt = np.bincount(cell.ravel(), minlength=layers * experts).reshape(layers, experts)
    slot = in_order(phy2log)
    expert = np.take_along_axis(phy2log, slot, axis=1)
    number = np.arange(slots) - np.take_along_axis(logcnt.cumsum(axis=1) - logcnt, expert, axis=1)
    log2phy = np.full((layers, experts, logcnt.max()), -1)
    log2phy[np.arange(layers)[:, None], expert, number] = slot
    return log2phy, logcnt


history = History(0, 0)


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Decide which expert every slot holds, from the last window's loads [layers, experts].

    Returns ``phy2log`` [layers, num_replicas], the expert in each slot; ``log2phy`` [layers,
    experts, X], the slots of each expert, then -1; ``logcnt`` [layers, experts], its replicas.
    """
    global history
    layers, experts = weight.shape
    if history.shape != (layers, experts):
        history = History(layers, experts)
    mix = history.add(weight.to("cpu", torch.float32).numpy())[: history.windows]
    known = torch.from_numpy(history.loads[: history.windows])
    load = torch.mv(known.T, torch.from_numpy(mix.astype(np.float32))).numpy()
    load = np.maximum(load, 1e-30, dtype=np.float64).reshape(layers, experts)
    count = replicate(load, num_replicas)
    turns = min(TURNS, TRIED // (GIVERS * TAKERS * layers * num_replicas))
    if num_gpus < num_replicas <= FEW * num_gpus and num_replicas > experts > 1:
        count = search(load, count, num_gpus, turns)
    held, total = pack(load, count, num_gpus)
    plain, plain_total = pack(load, count, num_gpus, ahead=1e-9)
    cooler = plain_total.max(axis=1) < total.max(axis=1)
    phy2log = np.where(cooler[:, None, None], plain, held).reshape(layers, num_replicas)
    log2phy, logcnt = reverse_maps(phy2log, experts)
    return torch.from_numpy(phy2log), torch.from_numpy(log2phy), torch.from_numpy(logcnt)


# EVOLVE-BLOCK-END


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Answer one window: see `rebalance_experts`."""
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

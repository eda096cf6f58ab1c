"""Nearly the best balancedness with few migrations: repairs the placement instead of redoing it.

Moving an expert's weights costs more than deciding to. Slots keep their experts, save `MOVES` of
them: replicas go to clearly hotter experts, and the hottest GPUs swap replicas with cool ones where
the sum of squared GPU loads falls enough, over the forecast and the main patterns of deviation from
it. Both are those of `programs/balanced.py`.

Sources: replication of DeepSeek's EPLB; longest processing time first; pairwise interchange in load
balancing. Lineage: docs/lineage.md. Not covered: how far a move goes, nodes, groups.
"""

import numpy as np
import torch

# EVOLVE-BLOCK-START
# Share of the slots that may change in one window, usually and where GPUs hold fewer than FEW.
MOVES = (0.25, 0.5)
# Least gain of a swap, as half the fall of squared load in units of the mean GPU load squared, and
# how far from the mean to the hottest GPU's squared load those are that swap.
WORTHWHILE, FOCUS = 5e-4, 0.1
# How much hotter a new replica must be than the one it replaces, usually and where GPUs hold few,
# what few are, how many a layer exchanges at once, and how often.
CLEARLY, SLIGHTLY, FEW, TOGETHER, EXCHANGES = 1.1, 1.02, 6, 12, 6
# Rounds of swaps, usually, and in a regime's first window or where GPUs hold few replicas.
ROUNDS, MANY_ROUNDS = 10, 30
# One GPU in so many is hot, but no more than MANY; the most slots that one is compared with.
SHARE, MANY, REACH = 8, 9, (18, 36)
# How much less a window counts in the forecast than the one after it: the choice for two windows,
# the usual one, and how much worse than others that must do, a step away, to be given up.
DECAYS = np.array([0.0, 0.3, 0.5, 0.7, 0.85, 0.95])
CAREFUL, USUAL, DOUBT, MEMORY = 1, 2, 0.03, 24
# Patterns over time that swaps heed, and the windows from which on these are trusted wholly.
PATTERNS, TRUSTED = 3, 5


def ranked(value, part):
    """Columns of positive float32 values [rows, columns], in ascending order; ``part`` of them."""
    # The lowest bits give way to the column: sorting values is faster than sorting indices.
    mask = (1 << (value.shape[1] - 1).bit_length()) - 1
    number = value.view(np.int32) & ~mask
    number |= np.arange(value.shape[1], dtype=np.int32)
    number.sort(axis=1)
    return (number[:, part] & mask).astype(np.int64)


class History:
    """The last windows, each layer scaled to a mean load of one, and what they teach.

    loads: [MEMORY, layers * experts] float32; a row is one window, the oldest is overwritten
    product: [MEMORY, MEMORY], mean products of the loads of two windows
    steps: squared distance of each of the last windows to the one before
    errors: [decays], squared error of each decay's forecasts in units of the steps, fading
    """

    def __init__(self, layers, experts):
        self.loads = np.zeros((MEMORY, layers * experts), dtype=np.float32)
        self.product = np.zeros((MEMORY, MEMORY))
        self.windows, self.steps, self.forecasts = 0, [], None
        self.errors = np.zeros(len(DECAYS))

    def add(self, load):
        """Remember a window [layers, experts]; return the weight of each row in the forecast."""
        row = self.windows % MEMORY
        mean = np.maximum(load.mean(axis=1, keepdims=True), 1e-30)
        np.divide(load, mean, out=self.loads[row].reshape(load.shape))
        self.windows += 1
        known, product = torch.from_numpy(self.loads[: self.windows]), self.product
        # NumPy's product of such a size may start threads.
        dot = torch.mv(known, known[row]).numpy() / load.size
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

    def columns(self, weight):
        """Forecast and main patterns of deviation from it: [1 + patterns, layers * experts]."""
        used = weight > 1e-4
        windows = np.count_nonzero(used)
        mix = weight[:, None]
        if windows > 1:
            apart = (np.eye(MEMORY) - mix) * (used * min(1, windows / TRUSTED) / np.sqrt(windows))
            gram = apart.T @ self.product @ apart
            # The eighth power leaves the largest principal components.
            gram = np.linalg.matrix_power(gram / max(np.trace(gram), 1e-30), 8)
            start = gram.diagonal().argsort()[-min(PATTERNS, windows - 1) :]
            mix = np.concatenate((mix, apart @ np.linalg.qr(gram[:, start])[0]), axis=1)
        known = torch.from_numpy(self.loads[: self.windows])
        return (torch.from_numpy(mix[: self.windows].astype(np.float32)).T @ known).numpy()


class Placement:
    """What every slot holds. Experts and GPUs are numbered through all layers.

    held: [slots of a GPU, layers * gpus], the expert in each slot; leading axes sum up fast
    count: [layers * experts], replicas
    by_expert, start: the slots of the last phy2log by expert, and where each expert's begin
    """

    def __init__(self, load, shape):
        """Replicate greedily; the heaviest replica left goes where load and free slots are least.

        A free slot counts as the mean of the replicas left: those that hot ones leave room for.
        load: [layers * experts]; shape: layers, experts, slots of a layer and GPUs
        """
        self.shape, self.turn = shape, 0
        self.layers, self.experts, slots, self.gpus = shape
        load = load.reshape(self.layers, self.experts)
        row = np.arange(self.layers)
        count = np.ones(load.shape, dtype=np.int64)
        for _ in range(slots - self.experts):
            count[row, (load / count).argmax(axis=1)] += 1
        self.count = count.ravel()
        replica = load / count
        expert = np.repeat(np.arange(load.size), self.count).reshape(self.layers, -1)
        expert = np.take_along_axis(expert, (-replica.take(expert)).argsort(axis=1), axis=1)
        held = np.empty((slots // self.gpus, self.layers, self.gpus), dtype=np.int64)
        total, room = np.zeros((2, self.layers, self.gpus))
        room += len(held)
        rest = replica.take(expert)[:, ::-1].cumsum(axis=1)[:, ::-1] / np.arange(slots, 0, -1)
        for given, mean in zip(expert.T, rest.T):
            gpu = np.where(room > 0, total + room * mean[:, None], np.inf).argmin(axis=1)
            held[len(held) - room[row, gpu].astype(int), row, gpu] = given
            total[row, gpu] += replica.take(given)
            room[row, gpu] -= 1
        self.held = held.reshape(len(held), -1)

    def exchange(self, load, moves):
        """Give slots of experts that can spare them to clearly hotter ones.

        In each round a layer's coldest spare replicas make room for one more of each of the
        experts with the hottest, on the coolest of the GPUs where the former can go.
        load: [layers * experts] float32; moves: [layers], slots that may change, lowered in place
        """
        count, held, size = self.count, self.held.reshape(-1), len(self.held)
        # 1 / k, where the last replica, one of none, must stay.
        share = 1 / np.maximum(np.arange(size * self.gpus + 2, dtype=np.float32), 0.5)
        share[0] = np.inf
        replica, without = load * share.take(count), load * share.take(count - 1)
        heat = replica.take(self.held).sum(axis=0)
        clearly = np.float32(SLIGHTLY if size < FEW else CLEARLY)
        first = np.arange(0, len(load), self.experts)[:, None]
        for _ in range(EXCHANGES):
            cold = ranked(without.reshape(self.layers, -1), slice(TOGETHER)) + first
            hot = ranked(replica.reshape(self.layers, -1), slice(None, -TOGETHER - 1, -1)) + first
            may = replica[hot] > clearly * without[cold]
            may &= np.arange(may.shape[1]) < moves[:, None]
            cold, hot, layer = cold[may], hot[may], may.nonzero()[0]
            slot = self.by_expert.take(self.start[cold, None] + np.arange(self.most), mode="clip")
            gpu = slot // size + layer[:, None] * self.gpus
            slot = slot % size * len(heat) + gpu
            room = np.where(held[slot] == cold[:, None], heat[gpu], np.inf).argmin(axis=1)
            room = np.arange(len(slot)), room
            held[slot[room]] = hot
            np.add.at(heat, gpu[room], replica[hot] - replica[cold])
            count[hot] += 1
            count[cold] -= 1
            for expert in (hot, cold):
                replica[expert] = load[expert] * share[count[expert]]
                without[expert] = load[expert] * share[count[expert] - 1]
            moves -= may.sum(axis=1)
            # More rounds would serve few layers at the price of all: those wait.
            if np.count_nonzero(may[:, 0]) <= self.layers // 8:
                return

    def swap(self, columns, moves, rounds):
        """Let hot and cool GPUs swap replicas while that is worthwhile.

        columns: [columns, layers * experts], loads of one replica, whose squares are summed
        moves: [layers], slots that may change, lowered in place
        """
        items = columns.take(self.held, axis=1)
        total = items.sum(axis=1)
        items, held = items.reshape(len(columns), -1), self.held.reshape(-1)
        for _ in range(rounds):
            layer, here, there = self.worthwhile_swaps(items, total, moves)
            give, take = items.take(here, axis=1), items.take(there, axis=1)
            items[:, here], items[:, there] = take, give
            give -= take
            total[:, here % total.shape[1]] -= give
            total[:, there % total.shape[1]] += give
            held[here], held[there] = held[there], held[here]
            moves -= 2 * np.bincount(layer, minlength=len(moves))
            if len(layer) <= self.layers // 4:
                return

    def worthwhile_swaps(self, items, total, moves):
        """Find the best swap of each of the hottest GPUs with one of several cool ones.

        items: [columns, slots]; total: [columns, layers * gpus]. The k-th of the ``many`` hottest
        GPUs chooses among every many-th of the others. Returns layers, in order, and slots.
        """
        size, many = len(self.held), max(1, min(MANY, self.gpus // SHARE))
        step = -(-size // (reach := REACH[size < FEW]))
        position = np.arange(self.turn % step, size, step) * total.shape[1]
        blocks = max(1, self.gpus // many - 1)
        partners = max(1, min(blocks, reach // len(position)))
        # The coolest, and others in turn: experts light enough may be on any GPU.
        block = np.append(0, 1 + (self.turn + np.arange(1, partners)) % max(1, blocks - 1))
        heat = np.square(total).sum(axis=0)
        order = ranked(heat.reshape(self.layers, -1), slice(None))
        order += np.arange(0, len(heat), self.gpus)[:, None]
        hot = order[:, : -many - 1 : -1]
        may = heat[hot] >= 1 + FOCUS * (heat[hot[:, :1]] - 1)
        may &= np.arange(many) < moves[:, None] // 2
        layer, rank = may.nonzero()
        cool = order[:, : many * blocks].reshape(-1, blocks, many)[:, block]
        hot, cool = hot[layer, rank], cool[layer, :, (rank + self.turn) % many]
        self.turn += 1
        here = hot[:, None] + position
        there = (cool[:, :, None] + position).reshape(len(hot), partners * len(position))
        gap = np.repeat(total[:, hot, None] - total.take(cool, axis=1), len(position), axis=2)
        # |give - take|^2 - (give - take) gap is minus half the gain; sums over columns as products.
        give, take = (np.ones((len(items) + 2, *a.shape), np.float32) for a in (here, there))
        items.take(here, axis=1, out=give[:-2], mode="clip")
        items.take(there, axis=1, out=take[:-2], mode="clip")
        np.einsum("cns,cns->ns", give[:-2], give[:-2], out=give[-2])
        gap += take[:-2]
        np.einsum("cns,cns->ns", take[:-2], gap, out=take[-1])
        np.subtract(-gap, take[:-2], out=take[:-2])
        loss = give.transpose(1, 2, 0) @ take.swapaxes(0, 1)
        loss = loss.reshape(len(hot), here.shape[1] * there.shape[1])
        best = loss.argmin(axis=1)
        row = np.flatnonzero(loss[np.arange(len(best)), best] < -WORTHWHILE)
        mine, other = np.divmod(best[row], there.shape[1])
        return layer[row], here[row, mine], there[row, other]

    def maps(self):
        """Return phy2log, log2phy and logcnt as `rebalance_experts` does."""
        layers, experts, slots, gpus = self.shape
        first = np.arange(0, layers * experts, experts)[:, None]
        phy2log = self.held.reshape(-1, layers, gpus).transpose(1, 2, 0).reshape(layers, -1) - first
        bits = (slots - 1).bit_length()
        slot = np.sort((phy2log << bits | np.arange(slots)).astype(np.int32), axis=1)
        self.by_expert = (slot & (1 << bits) - 1).ravel().astype(np.int64)
        self.start = self.count.cumsum() - self.count
        self.most = most = int(self.count.max())
        log2phy = torch.from_numpy(np.full(layers * experts * most, -1))
        row = np.arange(0, len(log2phy), most) - self.start
        place = row.take((slot >> bits) + first).ravel() + np.arange(slot.size)
        log2phy.scatter_(0, torch.from_numpy(place), torch.from_numpy(self.by_expert))
        logcnt = torch.from_numpy(self.count.reshape(layers, experts).copy())
        return torch.from_numpy(phy2log), log2phy.view(layers, experts, most), logcnt


history = placement = None


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Decide which expert every slot holds, from the last window's loads [layers, experts].

    Returns ``phy2log`` [layers, num_replicas], the expert in each slot; ``log2phy`` [layers,
    experts, X], the slots of each expert, then -1; ``logcnt`` [layers, experts], its replicas.
    """
    global history, placement
    layers, experts = weight.shape
    shape = (layers, experts, num_replicas, num_gpus)
    if placement is None or placement.shape != shape:
        history, placement = History(layers, experts), None
    columns = history.columns(history.add(weight.to("cpu", torch.float32).numpy()))
    forecast = np.maximum(columns[0], 1e-30)
    few = num_replicas < FEW * num_gpus
    moves = np.full(layers, int(MOVES[few] * num_replicas) if placement else num_replicas)
    if placement is None:
        placement = Placement(forecast, shape)
    else:
        placement.exchange(forecast, moves)
    if num_gpus > 1:
        # Loads of one replica in units of the mean GPU load.
        columns *= np.float32(num_gpus / experts)
        columns /= placement.count.astype(np.float32)
        many = few or np.count_nonzero(history.forecasts[-1]) == 1
        placement.swap(columns, moves, MANY_ROUNDS if many else ROUNDS)
    return placement.maps()


# EVOLVE-BLOCK-END


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)

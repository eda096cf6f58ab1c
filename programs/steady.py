"""Nearly the best balancedness with few migrations: repairs the placement instead of redoing it.

Slots keep their experts, save where clearly hotter experts need replicas that colder ones can
spare; where GPUs hold few slots and few are spare, so that light ones are placed anew; and where
swaps of hot GPUs with cool ones lower the sum of squared GPU loads enough: of the forecast, of each
group's part of it, and of the main deviations. Forecasts: see `programs/balanced.py`.

Sources: replication of DeepSeek's EPLB; longest processing time first; pairwise interchange in load
balancing. Lineage: docs/lineage.md. Not covered: nodes, how far a move goes, a limit of moves.
"""

import numpy as np
import torch

# EVOLVE-BLOCK-START
# How much hotter a new replica must be than the one it replaces, halvings to find the coldest, and
# how much larger than others claims are that come first.
CLEARLY, HALVINGS, MUCH = 1.05, 8, 1.25
# Where GPUs hold so few slots, less than one of them spare, all but the heaviest are placed anew;
# what it is worth, in mean GPU loads, that they stay, and that replicas of an expert are parted.
FEW, STAY, PARTED = 6, 0.1, 0.01
# Weight of a group's load against that of all, where squares are summed; the most told apart.
APART, GROUPS = np.float32(0.32), 8
# Rounds of swaps, and the least gain of one, half the fall of squared load over the mean's square:
# usually, and in the first window, where nothing moves yet.
ROUNDS, WORTHWHILE = (5, 30), (2e-4, 1e-5)
# One GPU in so many is hot, and the slots that one is compared with.
SHARE, REACH = 8, 18
# How much less a window counts in the forecast than the one after it, and how much smaller errors
# must be than those of the third, the usual choice; windows remembered; patterns over time that
# swaps heed, and the windows from which on these are trusted wholly.
DECAYS = np.array([0.0, 0.3, 0.5, 0.7, 0.85, 0.95])
DOUBTS = np.array([0.06, 0.03, 0.0, 0.03, 0.06, 0.09])
MEMORY, PATTERNS, TRUSTED = 24, 3, 5


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
            error = (forecast @ product - 2 * product[row]) * forecast
            self.errors = 0.9 * self.errors + (error.sum(axis=1) + square[row]) / self.steps[-1]
        alike[row] = True
        age = (row - np.arange(MEMORY)) % MEMORY
        weight = (alike & (age < self.windows)) * DECAYS[:, None] ** age
        self.forecasts = weight / weight.sum(axis=1, keepdims=True)
        return self.forecasts[(self.errors + DOUBTS).argmin()]

    def columns(self, weight):
        """Forecast and main patterns of deviation from it: [1 + patterns, layers * experts]."""
        used = weight > 1e-4
        windows, mix = np.count_nonzero(used), weight[:, None]
        if windows > 1:
            apart = (np.eye(MEMORY) - mix) * (used * min(1, windows / TRUSTED) / np.sqrt(windows))
            largest = np.linalg.eigh(apart.T @ self.product @ apart)[1].T[1 - windows :]
            mix = np.concatenate((mix, apart @ largest[-PATTERNS:].T), axis=1)
        known = torch.from_numpy(self.loads[: self.windows])
        return (torch.from_numpy(mix[: self.windows].astype(np.float32)).T @ known).numpy()


class Placement:
    """What every slot holds. Experts and GPUs are numbered through all layers.

    held: [slots of a GPU, layers * gpus], the expert in each slot; leading axes sum up fast
    count: [layers * experts], replicas
    group: [layers * experts], the expert's group within its layer
    by_expert, start: slots by expert, and where each expert's begin
    """

    def __init__(self, shape):
        """Nothing is placed yet. shape: layers, experts, slots of a layer, GPUs and groups."""
        self.shape, self.turn = shape, 0
        self.layers, self.experts, self.slots, self.gpus, groups = shape
        group = np.arange(self.experts) * groups // self.experts % GROUPS
        self.group, self.groups = np.tile(group, self.layers), min(groups, GROUPS)
        self.count = np.ones(self.layers * self.experts, dtype=np.int64)
        self.held = np.zeros((self.slots // self.gpus, self.layers * self.gpus), dtype=np.int64)
        self.by_expert = self.start = np.zeros(0, dtype=np.int64)

    def replicate(self, load):
        """Give all slots to the largest claims: for its k-th replica, an expert's load / (k - 1).

        That is greedy replication, but replicas that are there claim CLEARLY times as much.
        """
        load, clearly = load.reshape(self.layers, -1), np.float32(CLEARLY)
        spare, held = self.slots - self.experts, np.float32(self.count - 1).reshape(load.shape)
        extra = 0 * held
        # The least claim that is met lies between them, however hot a few experts are.
        low = load.sum(axis=1, keepdims=True) / self.slots
        high = low * (clearly * self.slots / max(spare, 1))
        for _ in range(HALVINGS):
            least = np.sqrt(low) * np.sqrt(high)
            most = load / least
            met = np.minimum(np.maximum(held, np.floor(most)), np.floor(most * clearly))
            fits = met.sum(axis=1, keepdims=True) <= spare
            extra = np.where(fits, met, extra)
            low, high = np.where(fits, low, least), np.where(fits, least, high)
        while (left := (spare - extra.sum(axis=1)).astype(int)).any():
            claim = load / (extra + 1) * np.where(extra < held, clearly, 1)
            large = MUCH * claim >= claim.max(axis=1, keepdims=True)
            extra += large & ((-claim).argsort(axis=1).argsort(axis=1) < left[:, None])
        self.count = extra.ravel().astype(int) + 1

    def repair(self, load):
        """Replicate anew; place what is missing or would lie better elsewhere, for ``load``."""
        old, size = self.count, len(self.held)
        self.replicate(load)
        weight = np.float32(load / self.count).take(self.held)
        # Experts give up replicas on GPUs that hold another, then those on the hottest.
        loser = np.flatnonzero(self.count < old)
        number = np.arange(old[loser].max(initial=0))
        slot = self.by_expert.take(self.start[loser, None] + number, mode="clip")
        gpu = slot // size + loser[:, None] // self.experts * self.gpus
        heat = np.where(number < old[loser, None], weight.sum(axis=0)[gpu], np.float32(-np.inf))
        heat[:, 1:] += (gpu[:, 1:] == gpu[:, :-1]) * self.experts
        surplus = number < (old - self.count)[loser, None]
        order = (-heat).argsort(axis=1)
        slot, gpu = (np.take_along_axis(each, order, axis=1)[surplus] for each in (slot, gpu))
        free = np.full(self.held.shape, not self.start.size)
        free[slot % size, gpu] = True
        if size <= FEW and self.slots - self.experts < self.gpus:
            free |= np.arange(size)[:, None] != weight.argmax(axis=0)
        self.place(load, free)

    def place(self, load, free):
        """Fill free slots: the heaviest replica left goes where load and free slots are least.

        A free slot counts as the mean of the replicas left: those that hot ones leave room for.
        load: [layers * experts], in any unit; free: [slots of a GPU, layers * gpus]
        """
        (size, columns), layers, gpus = self.held.shape, self.layers, self.gpus
        replica = (load * (gpus / self.experts) / self.count).astype(np.float32)
        near = np.zeros((len(load), gpus), dtype=np.float32)
        near[self.held[free], free.nonzero()[1] % gpus] = -STAY
        kept, gpu = self.held[~free], (~free).nonzero()[1]
        near[kept, gpu % gpus] = PARTED
        # Load on each GPU, and apart from it that of each group.
        total = np.bincount(gpu, replica[kept], columns).astype(np.float32)
        part = np.bincount(self.group[kept] * columns + gpu, replica[kept], self.groups * columns)
        part = (part * APART**2).astype(np.float32).reshape(-1, gpus)
        room = free.sum(axis=0)
        total[room == 0] = np.inf
        slot, begin = np.flatnonzero(free.T), (room.cumsum() - room).reshape(layers, gpus)
        total, room = total.reshape(layers, gpus), np.float32(room).reshape(layers, gpus)
        lack = self.count - np.bincount(kept, minlength=len(load))
        expert = np.repeat(np.arange(len(load)), lack)
        # By layer, then the heaviest first.
        expert = expert[(expert // self.experts - replica[expert] / 2 / replica.max()).argsort()]
        rest = (replica * lack).reshape(layers, -1).sum(axis=1)
        number = np.bincount(expert // self.experts, minlength=layers)
        first = number.cumsum() - number
        for turn in range(number.max()):
            row = np.flatnonzero(number > turn)
            given = expert[first[row] + turn]
            group, heavy = self.group[given] * layers + row, replica[given]
            mean = (rest[row] / (number[row] - turn)).astype(np.float32)[:, None]
            price = room[row] * mean + total[row] + part[group] + near[given]
            gpu = price.argmin(axis=1)
            left = room[row, gpu] = room[row, gpu] - 1
            where = slot[begin[row, gpu] + left.astype(int)]
            self.held[where % size, where // size] = given
            total[row, gpu] += np.where(left > 0, heavy, np.inf)
            part[group, gpu] += heavy * APART**2
            near[given, gpu] = PARTED
            rest[row] -= heavy

    def swap(self, columns):
        """Let hot and cool GPUs swap replicas, after the first window only where that goes on.

        columns: [columns, layers * experts], loads of one replica, whose squares are summed
        """
        items = columns.take(self.held, axis=1)
        total = items.sum(axis=1)
        items, held = items.reshape(len(columns), -1), self.held.reshape(-1)
        layer, first = np.arange(self.layers), self.turn == 0
        for _ in range(ROUNDS[first]):
            here, there = self.worthwhile_swaps(items, total, layer, WORTHWHILE[first])
            give, take = items.take(here, axis=1), items.take(there, axis=1)
            items[:, here], items[:, there] = take, give
            give -= take
            total[:, here % total.shape[1]] -= give
            total[:, there % total.shape[1]] += give
            held[here], held[there] = held[there], held[here]
            layer = layer if first else np.unique(here % total.shape[1] // self.gpus)

    def worthwhile_swaps(self, items, total, layer, least):
        """Find slots to swap, of each of the hottest GPUs with the best of several cool ones.

        items: [columns, slots]; total: [columns, layers * gpus]. The k-th of the ``many`` hottest
        GPUs of each ``layer`` chooses among every many-th of the others.
        """
        size, many = len(self.held), max(1, self.gpus // SHARE)
        blocks = max(1, self.gpus // many - 1)
        partners = max(1, min(blocks, REACH // size))
        # The coolest, and others in turn: experts light enough may be on any GPU.
        block = np.append(0, 1 + (self.turn + np.arange(1, partners)) % max(1, blocks - 1))
        heat = np.square(total).sum(axis=0).reshape(self.layers, -1)[layer]
        order = heat.argsort(axis=1) + layer[:, None] * self.gpus
        hot = order[:, : -many - 1 : -1].ravel()
        cool = order[:, : many * blocks].reshape(-1, blocks, many)
        turned = (np.arange(many)[:, None] + self.turn) % many
        cool = cool[:, block, turned].reshape(-1, partners)
        self.turn += 1
        place = np.arange(size) * total.shape[1]
        here = hot[:, None] + place
        there = (cool[:, :, None] + place).reshape(-1, partners * size)
        gap = total[:, hot, None] - total.take(cool, axis=1)
        # |give - take|^2 - (give - take) gap is minus half the gain; sums over columns as products.
        give, take = (np.ones((len(items) + 2, *a.shape), np.float32) for a in (here, there))
        items.take(here, axis=1, out=give[:-2], mode="clip")
        items.take(there, axis=1, out=take[:-2], mode="clip")
        np.einsum("cns,cns->ns", give[:-2], give[:-2], out=give[-2])
        taken = take[:-2].reshape(*gap.shape, size)
        gap = taken + gap[..., None]
        np.einsum("cnps,cnps->nps", taken, gap, out=take[-1].reshape(gap.shape[1:]))
        gap += taken
        np.negative(gap, out=taken)
        loss = (give.transpose(1, 2, 0) @ take.swapaxes(0, 1)).reshape(-1, partners * size**2)
        best = loss.argmin(axis=1)
        row = np.flatnonzero(loss[np.arange(len(best)), best] < -least)
        mine, other = np.divmod(best[row], partners * size)
        return here[row, mine], there[row, other]

    def maps(self):
        """Return phy2log, log2phy and logcnt as `rebalance_experts` does."""
        layers, experts, slots, gpus, _ = self.shape
        phy2log = self.held.reshape(-1, layers, gpus).transpose(1, 2, 0).reshape(layers, -1)
        phy2log = phy2log - np.arange(0, layers * experts, experts)[:, None]
        self.by_expert = phy2log.astype(np.int16).argsort(axis=1, kind="stable").ravel()
        self.start, most = self.count.cumsum() - self.count, int(self.count.max())
        place = np.repeat(np.arange(len(self.count)) * most - self.start, self.count)
        place += np.arange(layers * slots)
        log2phy = np.full((layers, experts, most), -1)
        log2phy.reshape(-1)[place] = self.by_expert
        logcnt = self.count.reshape(layers, experts).copy()
        return tuple(map(torch.from_numpy, (phy2log, log2phy, logcnt)))


history = placement = None


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Decide which expert every slot holds, from the last window's loads [layers, experts].

    Returns ``phy2log`` [layers, num_replicas], the expert in each slot; ``log2phy`` [layers,
    experts, X], the slots of each expert, then -1; ``logcnt`` [layers, experts], its replicas.
    """
    global history, placement
    shape = (*weight.shape, num_replicas, num_gpus, num_groups)
    if placement is None or placement.shape != shape:
        history, placement = History(*weight.shape), Placement(shape)
    columns = history.columns(history.add(weight.to("cpu", torch.float32).numpy()))
    placement.repair(np.maximum(columns[0], 1e-30))
    # Loads of one replica in units of the mean GPU load.
    columns = columns / placement.count.astype(np.float32) * np.float32(num_gpus / weight.shape[1])
    if num_groups > 1:
        own = placement.group == np.arange(placement.groups)[:, None]
        columns = np.concatenate((columns, columns[0] * own * APART))
    placement.swap(columns)
    return placement.maps()


# EVOLVE-BLOCK-END

run_eplb = rebalance_experts

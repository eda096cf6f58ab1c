"""Exhaustive search over all ways to deal a few items to packs.

Meant for expert groups and nodes: eight groups fit four nodes in 105 ways, so the best one is found
by looking at each (multiprocessor scheduling, problem SS8 of Garey and Johnson, Computers and
Intractability, 1979). Where there are too many ways it deals in snake order.
"""

import functools

import numpy as np
import torch


@functools.cache
def ways_to_deal(items, num_packs, most_ways):
    """Every way to deal items to equal packs: [ways, items], the pack of each item, or None."""
    capacity = items // num_packs
    ways = [()]
    for _ in range(items):
        grown = []
        for way in ways:
            opened = max(way, default=-1) + 1
            for pack in range(min(opened + 1, num_packs)):
                if way.count(pack) < capacity:
                    grown.append((*way, pack))
        ways = grown
        if len(ways) > most_ways:
            return None
    return np.array(ways)


def balanced_packing(weight, num_packs):
    """Try every way to deal the items to the packs and keep the one with the lightest maximum."""
    rows, items = weight.shape
    heaviness = np.asarray(weight, dtype=np.float32)
    ways = ways_to_deal(items, num_packs, 500)
    if ways is None:
        position = np.arange(items)
        turn, seat = position // num_packs, position % num_packs
        dealt = np.where(turn % 2 == 0, seat, num_packs - 1 - seat)
        pack_index = np.empty((rows, items), dtype=np.int64)
        np.put_along_axis(pack_index, np.argsort(-heaviness, axis=1), dealt[None, :], axis=1)
    else:
        holds = (ways[:, :, None] == np.arange(num_packs)).astype(np.float32)
        heaviest_pack = np.tensordot(heaviness, holds, axes=(1, 1)).max(axis=2)
        pack_index = ways[heaviest_pack.argmin(axis=1)]
    by_pack = np.argsort(pack_index, axis=1, kind="stable")
    rank_in_pack = np.empty((rows, items), dtype=np.int64)
    rank = np.arange(items) % (items // num_packs)
    np.put_along_axis(rank_in_pack, by_pack, rank[None, :], axis=1)
    return torch.from_numpy(pack_index), torch.from_numpy(rank_in_pack)

"""Snake order, also called boustrophedon or serpentine dealing.

The heaviest items are dealt to packs 0, 1, …, n-1, the next ones back from n-1 to 0, and so on, as
in the serpentine systems that seed tournaments. One sort, and no look at the packs' loads.
"""

import numpy as np
import torch


def balanced_packing(weight, num_packs):
    """Deal the items, heaviest first, to the packs in turn, there and back."""
    rows, items = weight.shape
    heaviness = np.asarray(weight, dtype=np.float32)
    step = np.maximum(heaviness.max(axis=1, keepdims=True), 1e-30) / 65535
    lightness = (65535 - heaviness / step).astype(np.uint16)
    heaviest_first = np.argsort(lightness, axis=1, kind="stable")
    heaviest_first += np.arange(rows)[:, None] * items
    turn, seat = np.divmod(np.arange(items), num_packs)
    pack_index = np.empty((rows, items), dtype=np.int64)
    rank_in_pack = np.empty((rows, items), dtype=np.int64)
    pack_index.ravel()[heaviest_first] = np.where(turn % 2 == 0, seat, num_packs - 1 - seat)
    rank_in_pack.ravel()[heaviest_first] = turn
    return torch.from_numpy(pack_index), torch.from_numpy(rank_in_pack)

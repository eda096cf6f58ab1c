"""Snake order, also called boustrophedon or serpentine dealing.

The heaviest items are dealt to packs 0, 1, …, n-1, the next ones back from n-1 to 0, and so on, as
in the serpentine systems that seed tournaments. One sort, and no look at the packs' loads.
"""

import torch


def balanced_packing(weight, num_packs):
    """Deal the items, heaviest first, to the packs in turn, there and back."""
    rows, items = weight.shape
    heaviest_first = weight.argsort(dim=-1, descending=True)
    position = torch.arange(items)
    turn = position // num_packs
    seat = position % num_packs
    pack = torch.where(turn % 2 == 0, seat, num_packs - 1 - seat)
    pack_index = torch.empty(rows, items, dtype=torch.int64)
    rank_in_pack = torch.empty(rows, items, dtype=torch.int64)
    pack_index.scatter_(1, heaviest_first, pack.expand(rows, items))
    rank_in_pack.scatter_(1, heaviest_first, turn.expand(rows, items))
    return pack_index, rank_in_pack

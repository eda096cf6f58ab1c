"""Which plan an engine gets: `pytest tests/engines/test_choice.py`."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings

from eplb.engines.choice import keep_slots
from tests.strategies import random_phy2log, seeds


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_kept_slots_hold_the_same_experts_and_as_many_as_can_stay(seed):
    new = random_phy2log(seed, 3, 20, 9)
    old = random_phy2log(seed + 1, 3, 20, 9)
    # Slots of ranks that joined are empty.
    old[:, np.random.default_rng(seed).permutation(20)[: seed % 8]] = -1
    kept = keep_slots(new, old, 4)
    for row in range(3):
        for gpu in range(0, 20, 5):
            slots = [block[row, gpu : gpu + 5].tolist() for block in (new, old, kept)]
            counts = [Counter(block) for block in slots]
            assert counts[2] == counts[0]
            in_place = sum(before == after for before, after in zip(*slots[1:], strict=True))
            assert in_place == (counts[0] & counts[1]).total()

"""`programs/node_local.py`: as good as the seed, which keeps groups on nodes too."""

from __future__ import annotations

import pytest

from tests.programs.judging import V3, drifting, next_window, same_window


def test_node_local_balances_as_well_as_the_seed():
    windows = drifting(3, seed=4, noise=0.2)
    assert same_window("node_local", windows, V3) >= same_window("initial", windows, V3) - 0.003


@pytest.mark.parametrize("change", [1, 5])
def test_node_local_forgets_at_a_regime_change(change):
    """Also between its first two windows, where nothing tells yet how far windows are apart."""
    windows = drifting(10, seed=6, noise=0.1, change=change, layers=24)
    gain = next_window("node_local", windows) - next_window("initial", windows)
    assert gain[change] >= -0.005, "the window after the change is planned with the old regime"
    assert gain[change + 1 :].mean() >= 0.005

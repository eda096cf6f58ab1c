"""The engine's table against a plain calculation, and what --validate prints."""

from __future__ import annotations

import statistics as plain

import numpy as np
import pytest
from hypothesis import given, settings

from eplb.common import UserError
from eplb.engines import report
from eplb.placement import ExpertPlacement
from tests.strategies import random_loads, random_phy2log, seeds

few = settings(max_examples=25, deadline=None)


@few
@given(seeds)
def test_table_equals_a_slow_one(seed):
    loads = random_loads(seed, 4, 2, 10) + 1
    slots = random_phy2log(seed, 2, 12, 10)
    table = report.tabulate((3, 4), loads, ExpertPlacement.from_phy2log(slots, 10), 4)
    for layer in range(2):
        means, deviations, ratios = [], [], []
        for iteration in range(4):
            count = [slots[layer].tolist().count(expert) for expert in range(10)]
            ranks = [
                sum(loads[iteration, layer, e] / count[e] for e in slots[layer, 3 * g : 3 * g + 3])
                for g in range(4)
            ]
            means.append(plain.mean(ranks))
            deviations.append(plain.stdev(ranks))
            ratios.append((max(ranks) - means[-1]) / means[-1])
        assert np.isclose(table.mean[layer], plain.mean(means))
        assert np.isclose(table.std[layer], plain.mean(deviations))
        assert np.isclose(table.imbalance_ratio[layer], plain.mean(ratios))


def test_units_are_experts_slots_or_ranks():
    loads = np.array([[[30, 10]]])
    placement = ExpertPlacement.from_phy2log(np.array([[0, 0, 0, 1]]), 2)
    assert report.tabulate((0,), loads, None, None).imbalance_ratio[0] == 0.5
    assert report.tabulate((0,), loads, placement, None).imbalance_ratio[0] == 0
    table = report.tabulate((0,), np.array([[[60, 10]]]), placement, 2)
    assert table.mean[0] == 35 and np.isclose(table.imbalance_ratio[0], 5 / 35)


def test_an_idle_iteration_does_not_count_for_the_ratio():
    loads = np.array([[[30, 10]], [[0, 0]]])
    table = report.tabulate((0,), loads, None, None)
    assert (table.imbalance_ratio[0], table.mean[0]) == (0.5, 10)
    idle = report.tabulate((0,), loads[1:], None, None)
    assert idle.imbalance_ratio[0] == 0


def test_text_has_a_row_a_layer_and_the_average():
    table = report.tabulate((3, 4), np.array([[[30, 10], [20, 20]]]), None, None)
    lines = str(table).splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "3", "4", "average"]
    assert lines[-1].split() == ["average", "20.0", "7.071068", "0.250000"]


def test_plot_is_written_and_its_suffix_checked_first(tmp_path):
    table = report.tabulate((3, 4), np.array([[[30, 10], [20, 20]]]), None, None)
    report.plot(tmp_path / "it.png", {"before": table, "after": table})
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="suffix"):
        report.check_plot(tmp_path / "it.txt")

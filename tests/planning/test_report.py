"""The engine's table against a plain calculation, and what --validate prints.

Run it with `pytest tests/planning/test_report.py`.
"""

from __future__ import annotations

import statistics as plain

import numpy as np
from hypothesis import given, settings

from eplb.placement import Deployment, ExpertPlacement
from eplb.planning import load_table
from tests.strategies import random_loads, random_phy2log, seeds

few = settings(max_examples=25, deadline=None)


@few
@given(seeds)
def test_table_equals_a_slow_one(seed):
    loads = random_loads(seed, 4, 2, 10) + 1
    slots = random_phy2log(seed, 2, 12, 10)
    table = load_table.tabulate(
        (3, 4), loads, ExpertPlacement.from_phy2log(slots, 10), Deployment(12, 1, 1, 4)
    )
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
    assert load_table.tabulate((0,), loads).imbalance_ratio[0] == 0.5
    assert load_table.tabulate((0,), loads, placement).imbalance_ratio[0] == 0
    table = load_table.tabulate((0,), np.array([[[60, 10]]]), placement, Deployment(4, 1, 1, 2))
    assert table.mean[0] == 35 and np.isclose(table.imbalance_ratio[0], 5 / 35)


def test_what_holds_no_token_is_left_out_of_averages():
    """An iteration of a layer, and a layer: neither counts as perfectly balanced."""
    loads = np.array([[[30, 10], [0, 0]], [[0, 0], [0, 0]]])
    table = load_table.tabulate((0, 1), loads)
    assert (table.imbalance_ratio[0], table.mean[0]) == (0.5, 20)
    assert np.isnan(table.imbalance_ratio[1])
    assert (table.average_imbalance_ratio, table.balancedness) == (0.5, 20 / 30)
    assert str(table).splitlines()[2].split() == ["1", "-", "-", "-"]


def test_text_has_a_row_a_layer_and_the_average():
    table = load_table.tabulate((3, 4), np.array([[[30, 10], [20, 20]]]))
    lines = str(table).splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "3", "4", "average"]
    assert lines[-1].split() == ["average", "20.0", "7.1", "0.2500"]


def test_columns_keep_a_gap_and_fit_80_columns_at_any_size():
    loads = np.array([[[2**52, 1, 1], [20, 20, 20]]])
    table = load_table.tabulate((3, 4), loads)
    texts = str(table), load_table.compare({"a" * 300: table, "b": table})
    for text, columns in zip(texts, (4, 3), strict=True):
        assert all(len(line) <= 80 and len(line.split()) == columns for line in text.splitlines())


def test_plot_is_written(tmp_path):
    table = load_table.tabulate((3, 4), np.array([[[30, 10], [0, 0]]]))
    load_table.plot(tmp_path / "it.png", {"before": table, "after": table}, "rank")
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")

"""Axes: ticks are round, inside and not too many; places and values correspond."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from eplb.report.axis import Axis, spread

LENGTHS = st.floats(1e-9, 1e9)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.booleans())
def test_a_linear_axis_shows_its_values(values: list[float], upwards: bool) -> None:
    start, end = (300.0, 10.0) if upwards else (10.0, 300.0)
    # Ranges below what a float resolves beside its own size cannot be drawn.
    values = [round(value, 3) for value in values]
    axis = Axis.around(values, start, end)
    assert all(10.0 <= axis.at(value) <= 300.0 for value in values)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 8
    for place, label in ticks:
        value = float(label.replace(",", ""))
        assert math.isclose(axis.at(value), place, abs_tol=0.5)
        assert 9.9 <= place <= 300.1


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8))
def test_a_logarithmic_axis_shows_its_values(values: list[float]) -> None:
    axis = Axis.around(values, 0.0, 500.0, logarithmic=True)
    assert all(-1e-6 <= axis.at(value) <= 500.0 + 1e-6 for value in values)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 10
    assert [place for place, _ in ticks] == sorted(place for place, _ in ticks)
    assert len({label for _, label in ticks}) == len(ticks)


def test_equal_factors_are_equal_distances() -> None:
    axis = Axis(1.0, 100.0, 0.0, 200.0, logarithmic=True)
    assert math.isclose(axis.at(10.0), 100.0)
    assert [label for _, label in axis.ticks()] == ["1", "2", "5", "10", "20", "50", "100"]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 300), min_size=1, max_size=8))
def test_labels_are_apart_and_in_order(places: list[float]) -> None:
    moved = spread(places, 15.0)
    pairs = sorted(zip(places, moved, strict=True))
    assert all(b - a >= 15.0 - 1e-6 for a, b in pairwise(sorted(moved)))
    if len(set(places)) == len(places):
        assert [m for _, m in pairs] == sorted(moved)
    assert math.isclose(sum(places), sum(moved), abs_tol=1e-6)

"""Evolving without an operator: `python -m pytest tests/bench/test_ablation.py`."""

from __future__ import annotations

import re

import pytest

from eplb.bench.ablation import evolve, switches, table


def proposals(left_out: str) -> list[str]:
    """The names of a few proposals, where programs score by their length alone."""
    with switches()[left_out]:
        best, names = evolve(0, 8, lambda code: {"correct": True, "combined_score": len(code)})
    assert len(names) == 8 and best > 0
    return names


@pytest.fixture(scope="module")
def everything() -> list[str]:
    return proposals("nothing")


@pytest.mark.parametrize("operator", ["swap_function", "cross_over"])
def test_an_operator_that_is_left_out_proposes_nothing(operator: str, everything) -> None:
    named = re.compile(f"(^|_and_){operator}")
    assert any(map(named.search, everything))
    assert not any(map(named.search, proposals(operator)))


def test_every_proposal_names_its_operator(everything) -> None:
    assert all(name.startswith(tuple(switches())) for name in everything)


def test_the_table_has_shares_means_and_changes() -> None:
    names = ["swap_function_a_for_b_and_insert_step_c", "simplify_drop_conversion"]
    text = table({"nothing": [0.5, 0.7], "insert_step": [0.4, 0.6]}, names)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert rows[2] == ["nothing", "0%", "0.500", "0.700", "0.600", "+0.000"]
    assert rows[3] == ["insert_step", "50%", "0.400", "0.600", "0.500", "-0.100"]

"""Lineage, front and islands, against slow and obvious reimplementations.

Run it with `pytest tests/report/test_history.py`.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from eplb.report import history
from eplb.report.program import Migration, read
from tests.report.by_hand import program, timed


def test_lineage_is_the_chain_of_parents(finished_run: Path) -> None:
    run = read(finished_run)
    programs, best = run.programs, run.best
    chain = history.lineage(best, programs)
    assert chain[-1] is best and chain[0].is_seed
    for parent, child in pairwise(chain):
        assert child.parent_id == parent.id


def test_lineage_ends_at_a_missing_parent_and_at_a_circle() -> None:
    lost = program("b", parent_id="gone")
    assert history.lineage(lost, [lost]) == [lost]
    a, b = program("a", parent_id="b"), program("b", parent_id="a")
    assert history.lineage(a, [a, b]) == [b, a]


def test_front_against_comparing_every_pair(finished_run: Path) -> None:
    programs = read(finished_run).programs
    every = [p for p in programs if p.milliseconds]
    beaten = {
        p.id
        for p in every
        for q in every
        if (q.milliseconds <= p.milliseconds and q.balancedness > p.balancedness)
        or (q.milliseconds < p.milliseconds and q.balancedness >= p.balancedness)
    }
    front = history.pareto_front(programs)
    assert {p.id for p in front} == {p.id for p in every if p.id not in beaten and not p.is_copy}
    assert [p.milliseconds for p in front] == sorted(p.milliseconds for p in front)


def test_front_keeps_one_of_equals_and_skips_what_was_not_timed() -> None:
    programs = [timed("a", 0.8, 2.0), timed("b", 0.8, 2.0), timed("c", 0.8, 3.0), program("d")]
    assert [p.id for p in history.pareto_front(programs)] == ["a"]


def test_islands_count_what_the_database_counts(finished_run: Path) -> None:
    programs = read(finished_run).programs
    islands = history.islands(programs)
    assert [island.index for island in islands] == [0, 1]
    assert sum(island.made for island in islands) == 31
    for island in islands:
        lives_here = sum(p.island == island.index and not p.is_copy for p in programs)
        assert island.made + island.arrivals - island.departures == lives_here
        scores = [step.program.score for step in island.steps]
        assert scores == sorted(set(scores))
        ever_here = [
            p.score
            for p in programs
            if p.score is not None
            and (
                p.birth_island == island.index
                or any(m.target == island.index for m in p.migrations)
            )
        ]
        assert island.best.score == max(ever_here)


def test_a_migrant_that_becomes_the_best_of_its_new_island() -> None:
    move = Migration(generation=4, source=0, target=1, timestamp=4.0)
    seed = program("s", generation=0, timestamp=0.0, score=0.1)
    copy = program("c", generation=0, score=0.1, island=1, metadata={"_is_island_copy": True})
    migrant = program("m", generation=2, timestamp=2.0, score=0.6, island=1, migrations=(move,))
    child = program("n", generation=5, timestamp=5.0, score=0.7, island=1, parent_id="m")
    before = program("o", generation=3, timestamp=3.0, score=0.2, parent_id="m")
    twin = program("t", generation=7, timestamp=7.0, score=0.7, island=1)
    programs = [seed, copy, migrant, before, child, twin]
    islands = history.islands(programs)
    one = islands[1]
    assert [(s.generation, s.program.id, s.arrived_from) for s in one.steps] == [
        (0, "c", None),
        (4, "m", 0),
        (5, "n", None),
    ], "an equal score is no rise"
    assert (one.made, one.arrivals, one.departures) == (2, 1, 0)
    assert islands[0].best is migrant, "it was the best there before it left"

"""What happened in a run: where the best program came from, and how the islands fared.

Covered: a program's ancestors, the Pareto front, the best score of every island over the
generations, and how many programs came and went. Not covered: which program is best
(`eplb.evolution.rundb`), failures and cost (`eplb.report.accounts`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eplb import common
from eplb.report.program import Program


def lineage(best: Program, programs: Iterable[Program]) -> list[Program]:
    """``best`` and its ancestors, oldest first, as far as the database has them."""
    by_id = {p.id: p for p in programs}
    chain = [best]
    seen = {best.id}
    while (parent := by_id.get(chain[-1].parent_id or "")) and parent.id not in seen:
        chain.append(parent)
        seen.add(parent.id)
    return chain[::-1]


def pareto_front(programs: Iterable[Program]) -> list[Program]:
    """Programs that no other beats in both balancedness and time, fastest first."""
    return common.pareto_front(
        filter(is_timed, programs), lambda p: (-p.milliseconds, p.balancedness)
    )


def is_timed(program: Program) -> bool:
    """Whether it tells its balancedness and its time."""
    return program.milliseconds is not None and program.balancedness is not None


@dataclass(frozen=True)
class Step:
    """An island's best score rose: a program was made there, or arrived from another island."""

    generation: int
    program: Program
    arrived_from: int | None


@dataclass(frozen=True)
class Island:
    """One island's life. ``steps`` are the times that its best score rose."""

    index: int
    made: int
    correct: int
    arrivals: int
    departures: int
    steps: tuple[Step, ...]

    @property
    def best(self) -> Program | None:
        return self.steps[-1].program if self.steps else None


def islands(programs: Sequence[Program]) -> list[Island]:
    """Every island that a program was made on or moved to, in order of its number."""
    comings = defaultdict(list)
    for program in programs:
        comings[program.birth_island].append((program.generation, program.timestamp, program, None))
        for move in program.migrations:
            comings[move.target].append((move.generation, move.timestamp, program, move.source))
    return [_island(index, comings[index], programs) for index in sorted(comings)]


def _island(index: int, comings: list[tuple], programs: Sequence[Program]) -> Island:
    steps: list[Step] = []
    for generation, _, program, source in sorted(comings, key=lambda coming: coming[:2]):
        if program.score is None:
            continue
        if not steps or program.score > steps[-1].program.score:
            steps.append(Step(generation, program, source))
    born = [p for p in programs if p.birth_island == index and not p.is_copy]
    return Island(
        index=index,
        made=len(born),
        correct=sum(p.correct for p in born),
        arrivals=sum(move.target == index for p in programs for move in p.migrations),
        departures=sum(move.source == index for p in programs for move in p.migrations),
        steps=tuple(steps),
    )

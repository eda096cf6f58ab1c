"""What happened in a run: who is best, where it came from, what the islands gave each other.

Covered: the seed, the best program and its ancestors, the best score of every island over the
generations, and exchanges between islands, both by migration (a program moves) and by inspiration
(a model is shown a program that lives on another island). Not covered: failures and cost
(`eplb.report.accounts`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eplb.bench.pareto import front
from eplb.evolution.rundb import Program


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
    timed = [p for p in programs if p.milliseconds is not None and p.balancedness is not None]
    return front(timed, speed=lambda p: -p.milliseconds)


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


@dataclass(frozen=True)
class Exchange:
    """Programs that moved from one island to another at one generation.

    raised: how many of them became the best that the target had seen
    """

    generation: int
    source: int
    target: int
    programs: tuple[Program, ...]
    raised: int


def exchanges(programs: Sequence[Program], known: Iterable[Island]) -> list[Exchange]:
    """All migrations, gathered by generation and pair of islands, in that order."""
    moved: dict[tuple[int, int, int], list[Program]] = defaultdict(list)
    for program in programs:
        for move in program.migrations:
            moved[move.generation, move.source, move.target].append(program)
    records = {
        (island.index, step.arrived_from, step.generation, step.program.id)
        for island in known
        for step in island.steps
    }
    return [
        Exchange(
            generation,
            source,
            target,
            tuple(gone),
            sum((target, source, generation, p.id) in records for p in gone),
        )
        for (generation, source, target), gone in sorted(moved.items(), key=lambda item: item[0])
    ]


@dataclass(frozen=True)
class Traffic:
    """What one island gave another over the whole run.

    migrated: programs that moved
    children: programs made from a migrant on its new island
    inspired: times that a program living on the source was shown for an edit on the target
    """

    source: int
    target: int
    migrated: int
    children: int
    inspired: int


def traffic(programs: Sequence[Program]) -> list[Traffic]:
    """What each ordered pair of islands exchanged; pairs that exchanged nothing are left out."""
    by_id = {p.id: p for p in programs}
    counts: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    for program in programs:
        if program.is_copy:
            continue
        here = program.birth_island
        for move in program.migrations:
            counts[move.source, move.target][0] += 1
        parent = by_id.get(program.parent_id or "")
        moves = [m for m in parent.migrations if m.timestamp <= program.timestamp] if parent else []
        if moves and moves[-1].target == here:
            counts[moves[-1].source, here][1] += 1
        for other in filter(None, map(by_id.get, program.inspirations)):
            there = other.island_at(program.began)
            if there != here:
                counts[there, here][2] += 1
    return [Traffic(*pair, *count) for pair, count in sorted(counts.items())]

"""What went wrong, and what it cost: failures by reason, models, money, time.

Costs are those that ShinkaEvolve wrote beside each program and each proposal that it gave up.
Not in the database, hence not covered: what the run spent on evolving its own prompts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from eplb.evolution.rundb import COSTS, Run, costs, finite, text
from eplb.report.program import Program
from eplb.report.side_files import failed_edits, reason

LONGEST_REASON = 160
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])", re.IGNORECASE)


@dataclass
class Failures:
    """Failures that share a reason but for its numbers."""

    stage: str
    reason: str
    generations: list[int] = field(default_factory=list)
    example: str = ""


def failures(run: Run) -> list[Failures]:
    """All failures by stage and reason, the most frequent first within a stage."""
    found: dict[tuple[str, str], Failures] = {}

    def count(stage: str, told: str, generation: int) -> None:
        summary = summarise(told)
        entry = found.setdefault((stage, summary), Failures(stage, summary, example=told))
        entry.generations.append(generation)

    for program in run.programs:
        if not program.correct and not program.is_copy:
            told = reason(run.folder, program.generation) or program.feedback
            told = told or text(program.metadata.get("stderr_log"))
            if not told and program.metadata.get("results_missing"):
                told = "the evaluation left no results"
            count("Evaluation failed", told, program.generation)
    for proposal in run.failed_proposals:
        told = text(proposal.details.get("failure_reason"))
        count("Proposal given up", told, proposal.generation)
    for edit in sorted(failed_edits(run.folder), key=lambda edit: edit.generation):
        count("Edit asked for again", edit.reason, edit.generation)
    stages = list(dict.fromkeys(stage for stage, _ in found))
    return sorted(found.values(), key=lambda f: (stages.index(f.stage), -len(f.generations)))


def summarise(told: str) -> str:
    """One line that failures of the same kind share: numbers are replaced by ``#``.

    The first line says it, but for a traceback, which ends with what went wrong.
    """
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    if not lines:
        return "no reason recorded"
    line = lines[-1] if lines[0].startswith("Traceback") else lines[0]
    line = re.sub(r"\[#(?:, #)*\]", "[#]", NUMBER.sub("#", line))
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 1]}…"


@dataclass
class Model:
    """What one model proposed, and what came of it.

    improved: correct programs that score higher than their parent
    records: programs that scored higher than every program before them
    """

    name: str
    proposals: int = 0
    correct: int = 0
    improved: int = 0
    records: int = 0
    best: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


def models(run: Run) -> list[Model]:
    """Every model that proposed a program, the most active first."""
    found: dict[str, Model] = defaultdict(lambda: Model(""))
    by_id = {p.id: p for p in run.programs}
    highest: float | None = None
    for program in sorted(run.programs, key=lambda p: p.timestamp):
        record = program.score is not None and (highest is None or program.score > highest)
        highest = program.score if record else highest
        if program.is_seed or program.is_copy:
            continue
        model = found[program.model]
        _count_program(model, program, by_id.get(program.parent_id or ""))
        model.records += record
    for proposal in run.failed_proposals:
        model = found[proposal.model]
        model.proposals += 1
        model.cost += sum(costs(proposal.details).values())
    for name, model in found.items():
        model.name = name or "not recorded"
    return sorted(found.values(), key=lambda model: -model.proposals)


def _count_program(model: Model, program: Program, parent: Program | None) -> None:
    answer = program.metadata.get("llm_result")
    answer = answer if isinstance(answer, dict) else {}
    model.proposals += 1
    model.correct += program.correct
    model.input_tokens += int(finite(answer.get("input_tokens")) or 0)
    model.output_tokens += int(finite(answer.get("output_tokens")) or 0)
    model.cost += sum(costs(program.metadata).values())
    if program.score is not None:
        model.best = program.score if model.best is None else max(model.best, program.score)
        model.improved += parent is not None and (
            parent.score is None or program.score > parent.score
        )


@dataclass(frozen=True)
class Bill:
    """What the run cost, in dollars, and how long it took, in seconds."""

    by_purpose: dict[str, float]
    total: float
    given_up: float
    seconds: float
    proposing: float
    evaluating: float


def bill(run: Run) -> Bill:
    """Add up costs and times over all programs and given-up proposals; copies count once."""
    own = [p for p in run.programs if not p.is_copy]
    by_purpose = dict.fromkeys(COSTS.values(), 0.0)
    for details in [p.metadata for p in own] + [f.details for f in run.failed_proposals]:
        for purpose, cost in costs(details).items():
            by_purpose[purpose] += cost
    return Bill(
        by_purpose=by_purpose,
        total=run.cost,
        given_up=sum(sum(costs(f.details).values()) for f in run.failed_proposals),
        seconds=max(p.timestamp for p in own) - min(p.began for p in own) if own else 0.0,
        proposing=_sum(own, "sampling_seconds"),
        evaluating=_sum(own, "evaluation_seconds"),
    )


def _sum(programs: Iterable[Program], key: str) -> float:
    return sum(finite(p.metadata.get(key)) or 0.0 for p in programs)

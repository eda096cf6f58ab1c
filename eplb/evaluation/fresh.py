"""Score programs on traces that nobody has seen, drawn for the occasion.

A score on a known trace is partly luck and partly memory: a program may carry numbers fitted to
it, or make the trace again from its seed. Seeds of 128 random bits cannot be searched; a small
number given by hand can. Not covered: loads of another kind than the workload model's.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eplb.common import project_file
from eplb.evaluation.measure import SEED, Criteria, Settings, run_program, run_seed
from eplb.evaluation.scores import Figures, PlacementScores
from eplb.sandbox.runner import Refused, Sandbox
from eplb.trace import History
from eplb.workload_model import PRESETS, generate

# In turn: three shapes and three deployments, then other traffic.
FRESH_PRESETS = ("deepseek-v3", "qwen3-235b", "kimi-k2", "bursty", "requests")
# Windows that the seed answers for its time, the first of them to warm up.
TIMED_WINDOWS = 4


class FreshTrace(NamedTuple):
    """A trace to be: ``python -m eplb.workload_model --preset … --seed …`` makes it again."""

    preset: str
    seed: int


def draw(number: int) -> list[FreshTrace]:
    """``number`` traces that nobody knew before."""
    presets = islice(cycle(FRESH_PRESETS), number)
    return [FreshTrace(preset, secrets.randbits(128)) for preset in presets]


def score_fresh(
    programs: Sequence[Path],
    traces: Sequence[FreshTrace],
    sandbox: Sandbox,
    criteria: Criteria,
    progress: Callable[[float], None] = lambda share: None,
) -> list[list[dict[str, Any]]]:
    """[programs][traces] the score of each program on each trace, by the rules of an evaluation.

    For JSON: "trace" and "seed" (as text, since few readers keep 128 bits of a number), "score"
    and "refusal", which is None or why the score is 0.0. Each program runs as often as in an
    evaluation: one run alone is slowed by chance. Node locality is required where the groups
    divide over the nodes.

    The seed is timed once a trace, just before the programs, which run one after another. A program
    that is the seed is not run again. progress: told the share done

    Raises `UserError` where the seed program itself fails.
    """
    code = project_file(SEED).read_bytes()
    are_seeds = [program.read_bytes() == code for program in programs]
    done = count(1)
    found: list[list[dict[str, Any]]] = [[] for _ in programs]
    for preset, number in traces:
        trace = generate(replace(PRESETS[preset], seed=number))
        history, deployment = History.of(trace), trace.deployment()
        setting = (history, deployment, criteria.serving(trace))
        local = criteria.require_locality and deployment.can_be_node_local
        timed = None if any(are_seeds) else TIMED_WINDOWS
        seed = run_seed(sandbox, history.seen[:timed], deployment)
        for row, (program, is_seed) in enumerate(zip(programs, are_seeds, strict=True)):
            scored = {"trace": preset, "seed": str(number), "score": 0.0, "refusal": None}
            try:
                arguments = (sandbox, program, history.seen, deployment)
                options = {"repeats": Settings.repeats, "require_locality": local}
                run = seed if is_seed else run_program(*arguments, **options)
                placed = PlacementScores(run.placements, *setting)
                figures = Figures.of(placed, run.seconds, seed.seconds)
                scored["score"] = criteria.combined_score(figures)
            except Refused as error:
                scored["refusal"] = str(error)
            found[row].append(scored)
            progress(next(done) / (len(traces) * len(programs)))
    return found


def mean_score(scores: Sequence[dict[str, Any]]) -> float:
    """The mean over the traces, a refusal as 0.0."""
    return float(np.mean([scored["score"] for scored in scores]))


def compare(
    settings: Settings, number: int, known: float, progress: Callable[[float], None]
) -> dict[str, Any]:
    """The program's scores on ``number`` traces, and how far their mean is below the ``known``."""
    with Sandbox(settings.timeout, settings.hidden) as sandbox:
        traces = draw(number)
        [scores] = score_fresh([settings.program], traces, sandbox, settings.criteria, progress)
    mean = mean_score(scores)
    return {"scores": scores, "mean": mean, "gap": known - mean}

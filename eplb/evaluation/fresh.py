"""Score programs on traces that nobody has seen, drawn for the occasion.

A score on a known trace is partly luck and partly memory: a program may carry numbers fitted to
it, or make the trace again from its seed. Seeds of 128 random bits cannot be searched; a small
number given by hand can. Not covered: loads of another kind than the workload model's.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from eplb.common import project_file
from eplb.evaluation.measure import SEED, Settings, run_program, run_seed
from eplb.evaluation.scores import SCORINGS, Figures, PlacementScores
from eplb.sandbox.runner import Refused, Sandbox
from eplb.throughput.profile import DEFAULT, Serving
from eplb.trace import History
from eplb.workload_model import PRESETS, WorkloadModel, generate

# In turn: three shapes and three deployments, then other traffic.
FRESH_PRESETS = ("deepseek-v3", "qwen3-235b", "kimi-k2", "bursty", "requests")
# Windows that the seed answers for its time, the first of them to warm up.
TIMED_WINDOWS = 4
# Runs of each program, as in an evaluation: one alone is slowed by chance.
REPEATS = 3


@dataclass(frozen=True)
class FreshTrace:
    """A trace to be: ``python -m eplb.workload_model --preset … --seed …`` makes it again."""

    preset: str
    seed: int

    @property
    def model(self) -> WorkloadModel:
        return replace(PRESETS[self.preset], seed=self.seed)


@dataclass(frozen=True)
class FreshScore:
    """What a program scored on ``trace``; 0.0, and why, where it was refused."""

    trace: FreshTrace
    score: float
    refusal: str | None = None

    @property
    def record(self) -> dict[str, object]:
        """For JSON; the seed as text, since few readers keep 128 bits of a number."""
        return {**vars(self), "trace": self.trace.preset, "seed": str(self.trace.seed)}


def draw(count: int) -> list[FreshTrace]:
    """``count`` traces that nobody knew before."""
    presets = islice(cycle(FRESH_PRESETS), count)
    return [FreshTrace(preset, secrets.randbits(128)) for preset in presets]


def score_fresh(
    programs: Sequence[Path],
    traces: Sequence[FreshTrace],
    sandbox: Sandbox,
    *,
    require_locality: bool = False,
    scoring: str = "eplb",
    dispatch: str = "even",
    hardware: Sequence[str] = (DEFAULT,),
    progress: Callable[[float], None] = lambda share: None,
) -> list[list[FreshScore]]:
    """[programs][traces] the score of each program on each trace, by the rules of an evaluation.

    The seed is timed once a trace, just before the programs, which run one after another. A program
    that is the seed is not run again. One that is refused on a trace has 0.0 there.
    require_locality: where the groups divide over the nodes; progress: told the share done

    Raises `UserError` where the seed program itself fails.
    """
    code = project_file(SEED).read_bytes()
    are_seeds = [program.read_bytes() == code for program in programs]
    scores: list[list[FreshScore]] = [[] for _ in programs]
    for column, trace in enumerate(traces):
        whole = generate(trace.model)
        history, deployment = History.of(whole, whole.interval()), whole.deployment()
        serving = Serving.of(hardware, dispatch, whole.header.top_k)
        local = require_locality and deployment.can_be_node_local
        timed = None if any(are_seeds) else TIMED_WINDOWS
        seed = run_seed(sandbox, history.seen[:timed], deployment)
        for row, (program, is_seed) in enumerate(zip(programs, are_seeds, strict=True)):
            try:
                arguments = (sandbox, program, history.seen, deployment)
                options = {"repeats": REPEATS, "require_locality": local}
                run = seed if is_seed else run_program(*arguments, **options)
                placed = PlacementScores(run.placements, history, deployment, serving)
                figures = Figures.of(placed, run.seconds, seed.seconds)
                score = FreshScore(trace, SCORINGS[scoring].formula(figures))
            except Refused as error:
                score = FreshScore(trace, 0.0, str(error))
            scores[row].append(score)
            progress((column * len(programs) + row + 1) / (len(traces) * len(programs)))
    return scores


def mean_score(scores: Sequence[FreshScore]) -> float:
    """The mean over the traces, a refusal as 0.0."""
    return float(np.mean([score.score for score in scores]))


def compare(
    settings: Settings, scoring: str, count: int, known: float, progress: Callable[[float], None]
) -> dict[str, object]:
    """The program's scores on ``count`` traces, and how far their mean is below the ``known``."""
    same = ("require_locality", "dispatch", "hardware")
    options = {name: getattr(settings, name) for name in same} | {"progress": progress}
    with Sandbox(settings.timeout, settings.hidden) as sandbox:
        programs, traces = [settings.program], draw(count)
        [scores] = score_fresh(programs, traces, sandbox, scoring=scoring, **options)
    mean = mean_score(scores)
    return {"scores": [score.record for score in scores], "mean": mean, "gap": known - mean}

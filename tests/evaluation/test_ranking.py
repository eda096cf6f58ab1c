"""What the score is for: no lazy program beats the honest one that it is made from.

Run: python -m pytest tests/evaluation/test_ranking.py. The lazy ones are in `lazy`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from eplb.common import project_file
from eplb.evaluation.measure import SEED, run_program
from eplb.evaluation.scores import SCORINGS, Figures, PlacementScores
from eplb.placement import Deployment
from eplb.sandbox.runner import Refused, Sandbox
from eplb.trace import History
from eplb.workload_model import PRESETS, generate
from tests.evaluation.lazy import HONEST, LAZY, lazy

REPEATS = 2
DEPLOYMENT = Deployment(80, 8, 4, 16)
SMALL = replace(PRESETS["deepseek-v3"], layers=6, experts=64, records_per_window=2)
TRACES = {
    "drifting": SMALL,
    "drifting otherwise": replace(SMALL, seed=1),
    "of few domains": replace(SMALL, seed=2, domains=2, num_groups=1),
}


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(20.0) as sandbox:
        yield sandbox


@cache
def history_of(trace: str) -> History:
    made = generate(TRACES[trace])
    return History.of(made)


def combined(sandbox: Sandbox, program: Path, trace: str, timed: bool) -> float:
    """The default score; 0.0 where the program is refused.

    timed: by the clock; else as for a program past a hundredfold, as those in programs/ are at the
        size of a deployment. On traces as small as these they would be timed at their overheads.
    """
    history = history_of(trace)
    try:
        run = run_program(
            sandbox, program, history.seen, DEPLOYMENT, repeats=REPEATS, time_seed=timed
        )
    except Refused:
        return 0.0
    scores = PlacementScores(run.placements, history, DEPLOYMENT)
    times = (run.seconds, run.seed_seconds) if timed else (np.zeros((1, 1)), np.ones((1, 1)))
    return SCORINGS["eplb"].formula(Figures.of(scores, *times))


def beaten_by(honest: Path, trace: str, ways: list[str], sandbox: Sandbox, program: Path):
    """The lazy programs that score more than ``honest``, with their scores and its own."""
    timed = honest.name == SEED
    wanted = combined(sandbox, honest, trace, timed)
    assert wanted > 0.3
    for name in ways:
        program.write_text(lazy(honest.read_text(), name))
        got = combined(sandbox, program, trace, timed)
        if got > wanted:
            yield name, got, wanted


@pytest.mark.parametrize("trace", TRACES)
@pytest.mark.parametrize("honest", HONEST, ids=lambda path: path.stem)
def test_no_lazy_program_beats_the_honest_one_that_it_is_made_from(
    honest, trace, sandbox, tmp_path
):
    assert list(beaten_by(honest, trace, list(LAZY), sandbox, tmp_path / "lazy.py")) == []


@pytest.mark.parametrize("trace", TRACES)
def test_nor_does_the_seed_gain_by_skipping_windows(trace, sandbox, tmp_path):
    """Deciding once is left out: the first call is nobody's time, and the seed's costs the most.

    A program a hundred times slower than need be may score more with the placement that it makes
    then and keeps, where the traffic drifts little. It stays far below the honest fast ones.
    """
    ways = [name for name in LAZY if name != "once"]
    assert list(beaten_by(project_file(SEED), trace, ways, sandbox, tmp_path / "lazy.py")) == []
    once = tmp_path / "once.py"
    once.write_text(lazy(project_file(SEED).read_text(), "once"))
    fast = [combined(sandbox, honest, trace, timed=False) for honest in HONEST]
    assert combined(sandbox, once, trace, timed=True) < min(fast)

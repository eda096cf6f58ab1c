"""Run a program on windows, check its answers and time it; and one evaluation from start to end.

Covered: the one way in which this project runs a program (`run_program`), the order of an
evaluation, and which failures are the program's and which the user's. Not covered: formulas
(`eplb.evaluation.scores`) and files (`eplb.evaluation.results`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path

import numpy as np

from eplb.common import UserError, project_file
from eplb.evaluation.scores import SCORINGS, Figures, PlacementScores
from eplb.placement import Deployment, ExpertPlacement, InvalidPlacement, validate
from eplb.sandbox.runner import DEFAULT_TIMEOUT, Answer, Refused, Sandbox
from eplb.throughput.profile import DEFAULT, Serving
from eplb.trace import History, Trace, read_trace

SEED = "initial.py"
# Windows that the seed answers for its time before each run of a program, the first of them to
# warm up: both are then slowed alike by what else the machine does.
SEED_WINDOWS = 2


@dataclass(frozen=True)
class ProgramRun:
    """What a program did with the windows that it was shown.

    placements: one a window, checked
    seconds: [repeats, windows] wall time of each call
    seed_seconds: [repeats, SEED_WINDOWS or fewer] the same of the seed; empty if it was not timed
    """

    placements: list[ExpertPlacement]
    seconds: np.ndarray
    seed_seconds: np.ndarray


def run_program(
    sandbox: Sandbox,
    program: Path,
    windows: np.ndarray,
    deployment: Deployment,
    *,
    repeats: int = 1,
    require_locality: bool = False,
    time_seed: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> ProgramRun:
    """Have ``program`` answer ``windows`` [windows, layers, experts] in order, and check it.

    Each repeat is a fresh process, and must answer like the first: a program is a function of its
    windows. time_seed: run the seed too, before every repeat; progress: told the share done.

    Raises `Refused` for what the program does wrong, and `UserError` where the seed fails.
    """
    warm_up = windows[: SEED_WINDOWS if time_seed else 0]
    calls, total = count(1), repeats * (len(warm_up) + len(windows))
    first: list[ExpertPlacement] = []
    seconds, seed_seconds = [], []

    def answered(*_: float) -> None:
        progress(next(calls) / total)

    for repeat in range(1, repeats + 1):
        if time_seed:
            seed = run_seed(sandbox, warm_up, deployment, answered)
            seed_seconds.append(seed.seconds[0])
        run = sandbox.run(program, windows, deployment, answered)
        seconds.append(run.seconds)
        placements = _checked(run.answers, windows, deployment, require_locality)
        first = first or placements
        _refuse_difference(first, placements, repeat)
    return ProgramRun(first, np.array(seconds), np.array(seed_seconds))


def run_seed(
    sandbox: Sandbox,
    windows: np.ndarray,
    deployment: Deployment,
    progress: Callable[[float], None] = lambda share: None,
) -> ProgramRun:
    """One run of the seed, whose failure is a `UserError`."""
    try:
        return run_program(sandbox, project_file(SEED), windows, deployment, progress=progress)
    except Refused as error:
        raise UserError(
            f"the seed program, which the speed is measured against, failed ({error}); "
            f"give it more time with --timeout if it was too slow"
        ) from error


def _checked(
    answers: list[Answer], windows: np.ndarray, deployment: Deployment, require_locality: bool
) -> list[ExpertPlacement]:
    """Validate every answer, and empty the list; the refusal names the window."""
    placements = []
    _, layers, experts = windows.shape
    sizes = {"num_layers": layers, "num_experts": experts, "deployment": deployment}
    for window in range(len(windows)):
        # Dropped as it is checked: its maps may be wide.
        answer = answers.pop(0)
        try:
            placements.append(validate(*answer, **sizes, require_locality=require_locality))
        except InvalidPlacement as error:
            raise Refused(f"window {window}: {error}") from error
    return placements


def _refuse_difference(
    first: list[ExpertPlacement], again: list[ExpertPlacement], repeat: int
) -> None:
    """Refuse where ``repeat`` placed other than the first; the order in log2phy means nothing."""
    for window, (one, other) in enumerate(zip(first, again, strict=True)):
        differs = np.argwhere(one.phy2log != other.phy2log)
        if differs.size:
            layer, slot = differs[0]
            raise Refused(
                f"window {window}: layer {layer}, slot {slot} holds expert "
                f"{one.phy2log[layer, slot]} in the first run and {other.phy2log[layer, slot]} in "
                f"run {repeat} on the same windows; a program is a function of its windows, "
                f"so random numbers need a fixed seed and clocks must not decide"
            )


@dataclass(frozen=True)
class Criteria:
    """How programs are scored, on whichever trace.

    require_locality: refuse a program that spreads a group over nodes
    scoring: the name of the combined score in `eplb.evaluation.scores.SCORINGS`
    dispatch, hardware: how placements are served, as `eplb.throughput.profile.Serving.of` takes it
    """

    require_locality: bool = False
    scoring: str = "eplb"
    dispatch: str = "even"
    hardware: Sequence[str] = (DEFAULT,)

    def combined_score(self, figures: Figures) -> float:
        return SCORINGS[self.scoring].formula(figures)

    def serving(self, trace: Trace) -> Serving:
        """How placements of the recorded model are served."""
        return Serving.of(self.hardware, self.dispatch, trace.header.top_k)


@dataclass(frozen=True)
class Settings:
    """What to evaluate and how.

    header: sizes of the deployment and the like, which go before those of the trace
    repeats: runs of the program, each in a fresh process
    timeout: seconds that one run may take
    seed_history: score the seed on the whole history too, to compare with
    hidden: files and folders that the program must not see, besides the trace and this project
    """

    program: Path
    trace: Path
    header: Mapping[str, int | None] = field(default_factory=dict)
    repeats: int = 3
    timeout: float = DEFAULT_TIMEOUT
    seed_history: bool = False
    hidden: tuple[Path, ...] = ()
    criteria: Criteria = Criteria()


@dataclass(frozen=True)
class Evaluation:
    """What was measured: ``run`` and its ``scores``, or the ``refusal`` of a program without.

    seed_scores: the seed's scores, if `Settings.seed_history` asked for them
    """

    settings: Settings
    deployment: Deployment
    history: History
    isolation: str
    seed_scores: PlacementScores | None = None
    run: ProgramRun | None = None
    scores: PlacementScores | None = None
    refusal: Refused | None = None

    @cached_property
    def figures(self) -> Figures:
        """What the combined score of a program that was not refused is made of."""
        return Figures.of(self.scores, self.run.seconds, self.run.seed_seconds)

    def worth_of(self, better: Figures) -> float:
        """What the combined score would gain with ``better`` figures."""
        combined = self.settings.criteria.combined_score
        return combined(better) - combined(self.figures)


def evaluate(settings: Settings, progress: Callable[[float], None]) -> Evaluation:
    """Measure ``settings.program``; ``progress`` is told the share of its windows that is done.

    Raises `UserError` for what the user can put right. What the program does wrong is in the
    result's ``refusal``.
    """
    program, criteria = settings.program, settings.criteria
    if not program.is_file():
        what = f"{program} is a folder" if program.is_dir() else f"there is no program {program}"
        raise UserError(f"{what}; --program_path names one Python file")
    options = {"repeats": settings.repeats, "require_locality": criteria.require_locality}
    with Sandbox(settings.timeout, (settings.trace, *settings.hidden)) as sandbox:
        # The sandbox imports torch in the meantime.
        trace = read_trace(settings.trace).stating(**settings.header)
        deployment, history = _task(settings, trace)
        setting = (history, deployment, criteria.serving(trace))
        found = {}
        if settings.seed_history:
            seed = run_seed(sandbox, history.seen, deployment)
            found["seed_scores"] = PlacementScores(seed.placements, *setting)
        try:
            sandboxed = (sandbox, program, history.seen, deployment)
            run = run_program(*sandboxed, **options, time_seed=True, progress=progress)
            found |= {"run": run, "scores": PlacementScores(run.placements, *setting)}
        except Refused as error:
            found["refusal"] = error
        return Evaluation(settings, deployment, history, sandbox.isolation, **found)


def _task(settings: Settings, trace: Trace) -> tuple[Deployment, History]:
    """Settle what the experts are placed on, and cut the trace into windows."""
    try:
        deployment, history = trace.deployment(), History.of(trace)
    except UserError as error:
        raise UserError(f"trace {settings.trace}: {error}") from error
    if settings.criteria.require_locality and not deployment.can_be_node_local:
        groups, nodes = deployment.num_groups, deployment.num_nodes
        raise UserError(
            f"--locality require needs whole groups per node, and num_groups {groups} is not a "
            f"multiple of num_nodes {nodes}; the nearest value that works is "
            f"{-(-groups // nodes) * nodes}, or use --locality report"
        )
    return deployment, history

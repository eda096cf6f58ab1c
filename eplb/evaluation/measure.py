"""Measure one program on one trace, from start to finish.

Covered: the order of things (sandbox, trace, seed, program), checking every answer, and which
failures are the program's and which the user's. Not covered: formulas
(`eplb.evaluation.scores`) and files (`eplb.evaluation.results`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from eplb.common import UserError, project_file
from eplb.evaluation.scores import PlacementScores, score_placements
from eplb.placement import Deployment, ExpertPlacement, InvalidPlacement, validate
from eplb.sandbox.runner import DEFAULT_TIMEOUT, Answer, Refused, Run, Sandbox
from eplb.trace import History, read_trace

# Windows that the seed answers for its time before each run of the program: both are then slowed
# alike by what else the machine does.
SEED_WINDOWS = 2


@dataclass(frozen=True)
class Settings:
    """What to evaluate and how.

    rebalance_interval: records per window; None for the trace's own
    repeats: runs of the program, each in a fresh process
    timeout: seconds that one run may take
    seed_history: score the seed on the whole history too, to compare with
    hidden: files and folders that the program must not see, besides the trace and this project
    """

    program: Path
    trace: Path
    deployment: Deployment = field(default_factory=Deployment)
    rebalance_interval: int | None = None
    repeats: int = 3
    require_locality: bool = False
    timeout: float = DEFAULT_TIMEOUT
    seed_history: bool = False
    hidden: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ProgramRun:
    """One run of a program: its answers, checked, with their scores and times.

    seconds: [windows] wall time of each call
    stage_seconds: what the program says of its stages, unchecked
    """

    answers: list[Answer]
    placements: list[ExpertPlacement]
    scores: PlacementScores
    seconds: np.ndarray
    stage_seconds: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """What was measured. ``refusal`` says why a program has no score; ``runs`` is empty then.

    seed_seconds: [runs, windows] wall time of each call of the seed program
    seed_scores: the seed's scores, if `Settings.seed_history` asked for them
    """

    settings: Settings
    history: History
    isolation: str
    seed_seconds: np.ndarray
    seed_scores: PlacementScores | None
    runs: list[ProgramRun] = field(default_factory=list)
    refusal: Refused | None = None

    @property
    def seconds(self) -> np.ndarray:
        """[repeats, windows] wall time of each call of the program."""
        return np.array([run.seconds for run in self.runs])


def evaluate(settings: Settings, progress: Callable[[float], None]) -> Evaluation:
    """Measure ``settings.program``; ``progress`` is told the share of the work that is done.

    Raises `UserError` for what the user can put right. What the program does wrong is in the
    result's ``refusal``.
    """
    _check_program(settings.program)
    _check_locality(settings)
    steps = settings.repeats + 1
    with Sandbox(settings.timeout, (settings.trace, *settings.hidden)) as sandbox:
        # The sandbox imports torch in the meantime.
        history = _read_history(settings, lambda share: progress(share / steps))
        seed_scores = None
        if settings.seed_history:
            seed = _run_seed(sandbox, history.seen, settings)
            seed_scores = _checked(seed, history, settings, None).scores
        seed_seconds = []
        runs: list[ProgramRun] = []
        refusal = None
        try:
            for repeat in range(settings.repeats):
                seed = _run_seed(sandbox, history.seen[:SEED_WINDOWS], settings)
                seed_seconds.append(seed.seconds)
                run = sandbox.run(settings.program, history.seen, settings.deployment)
                runs.append(_checked(run, history, settings, runs[-1] if runs else None))
                progress((2 + repeat) / steps)
        except Refused as error:
            runs, refusal = [], error
        return Evaluation(
            settings=settings,
            history=history,
            isolation=sandbox.isolation,
            seed_seconds=np.array(seed_seconds),
            seed_scores=seed_scores,
            runs=runs,
            refusal=refusal,
        )


def _check_program(program: Path) -> None:
    if program.is_dir():
        raise UserError(f"{program} is a folder; --program_path names one Python file")
    if not program.is_file():
        raise UserError(f"there is no program {program}; --program_path names one Python file")
    try:
        program.open("rb").close()
    except OSError as error:
        raise UserError(f"cannot read the program {program}: {error.strerror}") from error


def _check_locality(settings: Settings) -> None:
    deployment = settings.deployment
    if settings.require_locality and deployment.num_nodes > 0 and not deployment.can_be_node_local:
        nearest = -(-deployment.num_groups // deployment.num_nodes) * deployment.num_nodes
        raise UserError(
            f"--locality require needs whole groups per node, and num_groups "
            f"{deployment.num_groups} is not a multiple of num_nodes {deployment.num_nodes}; "
            f"the nearest value that works is {nearest}, or use --locality report"
        )


def _read_history(settings: Settings, progress: Callable[[float], None]) -> History:
    """Read the trace and cut it into windows."""
    trace = read_trace(settings.trace, lambda done, total: progress(done / total if total else 1.0))
    settings.deployment.check(trace.loads.shape[2])
    try:
        interval = trace.interval(settings.rebalance_interval)
    except UserError as error:
        raise UserError(f"trace {settings.trace}: {error}") from error
    return History.of(trace, interval)


def _run_seed(sandbox: Sandbox, windows: np.ndarray, settings: Settings) -> Run:
    try:
        return sandbox.run(project_file("initial.py"), windows, settings.deployment)
    except Refused as error:
        raise UserError(
            f"the seed program, which the speed is measured against, failed on {settings.trace} "
            f"({error}); give it more time with --timeout if it was too slow"
        ) from error


def _checked(
    run: Run, history: History, settings: Settings, earlier: ProgramRun | None
) -> ProgramRun:
    """Validate every answer and score the placements; what equals ``earlier`` is not redone."""
    seconds, stages = np.asarray(run.seconds), dict(run.stage_seconds)
    if earlier is not None and _same(run.answers, earlier.answers):
        return replace(earlier, seconds=seconds, stage_seconds=stages)
    placements = [
        _validated(answer, window, settings, history.windows.shape[1:])
        for window, answer in enumerate(run.answers)
    ]
    scores = score_placements(placements, history, settings.deployment)
    return ProgramRun(run.answers, placements, scores, seconds, stages)


def _validated(
    answer: Answer, window: int, settings: Settings, shape: tuple[int, int]
) -> ExpertPlacement:
    try:
        return validate(
            answer.phy2log,
            answer.log2phy,
            answer.logcnt,
            num_layers=shape[0],
            num_experts=shape[1],
            deployment=settings.deployment,
            require_locality=settings.require_locality,
        )
    except InvalidPlacement as error:
        raise Refused(f"window {window}: {error}") from error


def _same(left: list[Answer], right: list[Answer]) -> bool:
    return len(left) == len(right) and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(left, right, strict=True)
        for name in ("phy2log", "log2phy", "logcnt")
    )

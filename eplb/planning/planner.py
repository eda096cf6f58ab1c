"""From recorded statistics to a placement that is no worse than the engines' own rule.

Covered: sizes, planning with a program in the sandbox and with the greedy rules, and which plan is
kept. Not covered: what programs are shown (`eplb.planning.expected`), measuring
(`eplb.engines.choice`) and files (`eplb.engines`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from eplb.common import UserError
from eplb.engines.choice import Choice, choose, greedy_rules
from eplb.engines.model import EnginePlacement, ExpertStatistics
from eplb.evaluation.measure import ProgramRun, run_program
from eplb.loads import experts_in_order
from eplb.placement import Deployment, ExpertPlacement
from eplb.planning.expected import expected_load, windows_to_show
from eplb.planning.one_replica import part_replicas
from eplb.sandbox.runner import Refused, Sandbox

DEFAULT_PROGRAM = "programs/balanced.py"
TIMEOUT = 600.0  # seconds; planning happens once, not in the serving loop
HELD_OUT = 0.2  # of the iterations, to choose a plan by
# With fewer iterations than this, a held-out share tells chance more than quality.
FEWEST_TO_SPLIT = 10

# From loads [iterations, layers, experts].
Planner = Callable[[np.ndarray], ExpertPlacement]


def check_sizes(deployment: Deployment, num_experts: int) -> None:
    """Raise `UserError` for sizes that do not work, with the nearest ones that do."""
    try:
        deployment.check(num_experts)
    except UserError as error:
        # As the options are called.
        words = str(error).replace("num_replicas", "num_slots").replace("num_gpus", "ep_size")
        raise UserError(words) from error


def split(
    statistics: ExpertStatistics, share: float | None
) -> tuple[ExpertStatistics, ExpertStatistics]:
    """The iterations to plan on, and those to measure on: the last ``share`` of them.

    share: None for `HELD_OUT`, or everything on both sides where there are too few iterations
    """
    iterations = len(statistics.loads)
    if share is None:
        if iterations < FEWEST_TO_SPLIT:
            return statistics, statistics
        sides = split(statistics, HELD_OUT)
        return sides if all(side.loads.any() for side in sides) else (statistics, statistics)
    if not 0 < share < 1:
        raise UserError(f"--validate {share:g} is not a share between 0 and 1, for example 0.2")
    held_out = round(iterations * share)
    cut = statistics.iterations.stop - held_out
    if not 0 < held_out < iterations:
        raise UserError(
            f"--validate {share:g} of {iterations} iterations leaves nothing on one side; "
            f"record more iterations"
        )
    return statistics.between(None, cut), statistics.between(cut, None)


def plan(
    statistics: ExpertStatistics,
    deployment: Deployment,
    program: Path,
    one_replica_per_gpu: bool = False,
    hidden: tuple[Path, ...] = (),
    validate_share: float | None = None,
) -> tuple[EnginePlacement, Choice, ExpertStatistics]:
    """Place the experts with ``program``, or with a greedy rule where that is better.

    All plans are made without the last iterations and measured on those. What is kept is made once
    more from all iterations, unless ``validate_share`` asks for a figure that holds for the result.
    Returns the placement, the measured plans and what they were measured on.

    The program runs in the sandbox, each time in a fresh process that sees `windows_to_show`; its
    last answer counts. ``hidden`` are files and folders that it must not see, such as held-out
    iterations. Raises `UserError` when it fails or its answer breaks the contract.
    """
    known, held_out = split(statistics, validate_share)
    if not (known.loads.any() and held_out.loads.any()):
        raise UserError(
            f"--validate {validate_share:g} leaves a side without tokens; choose another"
        )

    with Sandbox(TIMEOUT, hidden) as sandbox:
        planners = _planners(sandbox, program, deployment)
        how = (deployment, one_replica_per_gpu)
        plans = {name: _place(planner, known.loads, *how) for name, planner in planners.items()}
        choice = choose(plans, held_out.loads, deployment)
        is_final = validate_share is not None or known is held_out
        best = choice.best if is_final else _place(planners[choice.kept], statistics.loads, *how)
    same = {name: getattr(statistics, name) for name in ("model_layers", "moe_layers_only")}
    sizes = (statistics.num_experts, deployment.num_gpus)
    return EnginePlacement(best.phy2log, statistics.layers, *sizes, **same), choice, held_out


def _planners(sandbox: Sandbox, program: Path, deployment: Deployment) -> dict[str, Planner]:
    """By name, the program first, whose answer to the last of its windows counts."""

    def by_program(loads: np.ndarray) -> ExpertPlacement:
        return ask(sandbox, program, windows_to_show(loads), deployment).placements[-1]

    found: dict[str, Planner] = {program.name: by_program}
    for name, rule in greedy_rules(deployment).items():
        found[f"{name}, recent load"] = lambda loads, rule=rule: rule(expected_load(loads))
        found[f"{name}, plain sum"] = lambda loads, rule=rule: rule(loads.sum(axis=0))
    return found


def _place(
    planner: Planner, loads: np.ndarray, deployment: Deployment, one_replica_per_gpu: bool
) -> ExpertPlacement:
    """``planner``'s placement; layers without a token keep experts in order."""
    _, layers, experts = loads.shape
    slots = experts_in_order(layers, experts, deployment.num_replicas).phy2log
    live = loads.any(axis=(0, 2))
    slots[live] = planner(loads[:, live]).phy2log
    if one_replica_per_gpu:
        rows = zip(slots, expected_load(loads), strict=True)
        slots = np.stack([part_replicas(*row, deployment.num_gpus) for row in rows])
    return ExpertPlacement.from_phy2log(slots, experts)


def ask(sandbox: Sandbox, program: Path, windows: np.ndarray, deployment: Deployment) -> ProgramRun:
    """What ``program`` answers to ``windows``, in order, checked; `UserError` where it fails."""
    try:
        return run_program(sandbox, program, windows, deployment)
    except Refused as error:
        raise UserError(f"{program} gives no placement: {error}") from error

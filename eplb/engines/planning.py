"""From recorded statistics to a placement: what a program is shown and is measured against.

Covered: the load that a program plans on, running it in the sandbox, TensorRT-LLM's own rule for
comparison, and a placement's repair for engines that take one replica of an expert per GPU. Not
covered: files (the engines' modules) and tables (`eplb.engines.report`).
"""

from __future__ import annotations

import heapq
from pathlib import Path

import numpy as np

from eplb.common import UserError
from eplb.engines.model import EnginePlacement, ExpertStatistics
from eplb.placement import Deployment, ExpertPlacement, InvalidPlacement, validate
from eplb.sandbox.runner import Refused, Sandbox

DEFAULT_PROGRAM = "programs/balanced.py"
TIMEOUT = 600.0  # seconds; planning happens once, not in the serving loop
# Candidate memories, as shares of the recording after which an iteration counts half.
HALF_LIVES = (np.inf, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)
WINDOWS = 20  # of history, before the window that holds everything


def check_sizes(num_experts: int, num_slots: int, ep_size: int, num_groups: int, num_nodes: int):
    """The `Deployment` of these sizes, or a `UserError` that names the nearest ones that work."""
    if ep_size < 1:
        raise UserError(f"ep_size is {ep_size}; it must be at least 1")
    fewest = -(-num_experts // ep_size) * ep_size
    fits = [fewest]
    reason = f"is fewer than the {num_experts} experts, and every expert needs a slot"
    if num_slots >= num_experts:
        below = num_slots // ep_size * ep_size
        fits = [size for size in (below, below + ep_size) if size >= fewest]
        reason = f"does not spread evenly over ep_size {ep_size}"
    if num_slots not in fits:
        raise UserError(
            f"num_slots {num_slots} {reason}; the nearest num_slots for ep_size {ep_size}: "
            f"{' or '.join(str(size) for size in fits)}"
        )
    deployment = Deployment(num_slots, num_groups, num_nodes, ep_size)
    deployment.check(num_experts)
    return deployment


def expected_load(loads: np.ndarray) -> np.ndarray:
    """The load to plan on, [layers, experts] int64, from ``loads`` [iterations, layers, experts].

    A sum over all iterations in which older ones count less. How much less is learned from the
    recording itself: of `HALF_LIVES` the one wins whose sum over a first part would have told the
    experts' shares of the rest best (least absolute error, first parts of a half and three
    quarters). Steady traffic so gets the plain sum, which has the least noise, and drifting
    traffic a short memory. The sum is scaled to the tokens that were counted.
    """
    iterations = len(loads)
    half_lives = [share * iterations for share in HALF_LIVES]
    if iterations >= 8:
        origins = (iterations // 2, 3 * iterations // 4)
        half_life = min(half_lives, key=lambda life: sum(_error(loads, o, life) for o in origins))
    else:
        half_life = np.inf
    load = _weighted_sum(loads, half_life)
    return np.rint(load * (loads.sum() / (load.sum() or 1.0))).astype(np.int64)


def _weighted_sum(loads: np.ndarray, half_life: float) -> np.ndarray:
    """[layers, experts]: sum over iterations, each half the weight of one ``half_life`` later."""
    age = np.arange(len(loads) - 1, -1, -1)
    return np.einsum("i,ile->le", 0.5 ** (age / half_life), loads)


def _error(loads: np.ndarray, origin: int, half_life: float) -> float:
    """How far the shares predicted at iteration ``origin`` are from those of the rest."""
    predicted = _shares(_weighted_sum(loads[:origin], half_life))
    return float(np.abs(predicted - _shares(loads[origin:].sum(axis=0))).sum())


def _shares(load: np.ndarray) -> np.ndarray:
    return load / np.maximum(load.sum(axis=-1, keepdims=True), 1)


def windows_to_show(loads: np.ndarray) -> np.ndarray:
    """What a program sees of ``loads`` [iterations, layers, experts]: [windows, layers, experts].

    The recording in up to `WINDOWS` parts, in order, as history for programs that forecast; then,
    as the last window, the `expected_load` in the size of a part, so that a program which believes
    its last window plans on everything known as well. On nine synthetic workloads, steady and
    drifting, programs/balanced.py reached a held-out balancedness of 0.804 this way, 0.800
    without the history, and 0.808 with the history alone, which costs programs without memory more.
    """
    parts = np.array_split(loads, min(WINDOWS, len(loads)))
    last = np.rint(expected_load(loads) / len(parts)).astype(np.int64)
    return np.stack([*(part.sum(axis=0) for part in parts), last])


def plan(
    statistics: ExpertStatistics,
    deployment: Deployment,
    program: Path,
    one_replica_per_gpu: bool = False,
    hidden: tuple[Path, ...] = (),
) -> EnginePlacement:
    """Place the experts with ``program``, on everything that ``statistics`` tell.

    The program runs in the sandbox, in a fresh process that sees `windows_to_show`; its last answer
    counts. ``hidden`` are files and folders that it must not see, such as held-out iterations.
    Raises `UserError` when it fails or its answer breaks the contract.
    """
    windows = windows_to_show(statistics.loads)
    with Sandbox(TIMEOUT, hidden) as sandbox:
        phy2log = _ask(sandbox, program, windows, deployment).phy2log
    if one_replica_per_gpu:
        rows = zip(phy2log, windows[-1], strict=True)
        phy2log = np.stack([part_replicas(*row, deployment.num_gpus) for row in rows])
    return EnginePlacement(
        phy2log=phy2log,
        layers=statistics.layers,
        num_experts=statistics.num_experts,
        num_gpus=deployment.num_gpus,
        model_layers=statistics.model_layers,
        moe_layers_only=statistics.moe_layers_only,
    )


def _ask(
    sandbox: Sandbox, program: Path, windows: np.ndarray, deployment: Deployment
) -> ExpertPlacement:
    """The checked answer to the last of ``windows`` [windows, layers, experts]."""
    try:
        answer = sandbox.run(program, windows, deployment).answers[-1]
        return validate(
            answer.phy2log,
            answer.log2phy,
            answer.logcnt,
            num_layers=windows.shape[1],
            num_experts=windows.shape[2],
            deployment=deployment,
        )
    except (Refused, InvalidPlacement) as error:
        raise UserError(f"{program} gives no placement: {error}") from error


def part_replicas(slots: np.ndarray, load: np.ndarray, num_gpus: int) -> np.ndarray:
    """Change ``slots`` [slots], the expert in each, until no GPU holds an expert twice.

    An expert with more replicas than there are GPUs gives the rest to those with the hottest
    replica; then slots are exchanged between GPUs, each time so that the hotter of the two GPUs
    ends up as cool as can be. ``load`` [experts] are the tokens of each.
    """
    slots = _cap_replicas(slots, load, num_gpus)
    per_replica = (load / np.bincount(slots, minlength=len(load)))[slots]
    gpu = np.arange(len(slots)) // (len(slots) // num_gpus)
    while (doubled := _doubled(slots, gpu)).any():
        slot = np.flatnonzero(doubled)[0]
        here, elsewhere = slots[gpu == gpu[slot]], gpu[slots == slots[slot]]
        # Taking in an expert that is doubled where it comes from may double it here, but still
        # leaves one double less. A GPU without this expert has one or the other kind, so there is
        # always a way.
        fits = np.flatnonzero(~np.isin(gpu, elsewhere) & (~np.isin(slots, here) | doubled))
        gpu_load = np.bincount(gpu, per_replica, minlength=num_gpus)
        given = per_replica[slot] - per_replica[fits]
        hotter = np.maximum(gpu_load[gpu[slot]] - given, gpu_load[gpu[fits]] + given)
        other = fits[hotter.argmin()]
        for values in (slots, per_replica):
            values[[slot, other]] = values[[other, slot]]
    return slots


def _doubled(slots: np.ndarray, gpu: np.ndarray) -> np.ndarray:
    """[slots] bool: is the slot's expert in another slot of its GPU as well?"""
    cell = slots * (gpu[-1] + 1) + gpu
    return np.bincount(cell)[cell] > 1


def _cap_replicas(slots: np.ndarray, load: np.ndarray, num_gpus: int) -> np.ndarray:
    """A copy of ``slots`` in which no expert has more than ``num_gpus`` replicas."""
    slots = slots.copy()
    replicas = np.bincount(slots, minlength=len(load))
    if len(load) * num_gpus < len(slots):
        raise UserError(
            f"{len(load)} experts fill at most {len(load) * num_gpus} slots with one replica per "
            f"GPU; use fewer than {len(slots)}"
        )
    for expert in np.flatnonzero(replicas > num_gpus):
        for slot in np.flatnonzero(slots == expert)[num_gpus:]:
            hottest = np.where(replicas < num_gpus, load / replicas, -1.0).argmax()
            slots[slot] = hottest
            replicas[hottest] += 1
    return slots


def place_by_engine_rule(loads: np.ndarray, deployment: Deployment) -> ExpertPlacement:
    """What TensorRT-LLM's generator makes of ``loads`` [iterations, layers, experts].

    Its rule plans on the plain sum, gives each spare slot to the expert with the hottest replica,
    and packs replicas, hottest first, each to the least loaded rank that has room. Source: the
    documentation and the moeLoadBalancer of TensorRT-LLM; written anew.
    """
    rows = [
        _greedy_row(load, deployment.num_replicas, deployment.num_gpus)
        for load in loads.sum(axis=0)
    ]
    return ExpertPlacement.from_phy2log(np.array(rows), loads.shape[2])


def _greedy_row(load: np.ndarray, num_slots: int, num_gpus: int) -> list[int]:
    replicas = [1] * len(load)
    hottest = [(-float(tokens), expert) for expert, tokens in enumerate(load)]
    heapq.heapify(hottest)
    for _ in range(num_slots - len(load)):
        _, expert = hottest[0]
        replicas[expert] += 1
        heapq.heapreplace(hottest, (-float(load[expert]) / replicas[expert], expert))
    items = sorted(
        (
            (load[expert] / count, expert)
            for expert, count in enumerate(replicas)
            for _ in range(count)
        ),
        key=lambda item: (-item[0], item[1]),
    )
    ranks: list[list[int]] = [[] for _ in range(num_gpus)]
    lightest = [(0.0, rank) for rank in range(num_gpus)]
    for tokens, expert in items:
        carried, rank = heapq.heappop(lightest)
        ranks[rank].append(expert)
        if len(ranks[rank]) < num_slots // num_gpus:
            heapq.heappush(lightest, (carried + tokens, rank))
    return [expert for rank in ranks for expert in rank]


def place_in_order(num_layers: int, num_experts: int, num_gpus: int) -> ExpertPlacement:
    """Where experts are without EPLB: consecutive ones on each GPU.

    An uneven number is rounded up as TensorRT-LLM does it: GPU g starts at expert g*E//num_gpus.
    """
    first = np.arange(num_gpus)[:, None] * num_experts // num_gpus
    row = (first + np.arange(-(-num_experts // num_gpus))).ravel() % num_experts
    return ExpertPlacement.from_phy2log(np.tile(row, (num_layers, 1)), num_experts)


def split(statistics: ExpertStatistics, share: float) -> tuple[ExpertStatistics, ExpertStatistics]:
    """Cut off the last ``share`` of the iterations: those to plan on, those to measure on."""
    if not 0 < share < 1:
        raise UserError(f"--validate {share} is not a share between 0 and 1, for example 0.2")
    held_out = round(len(statistics.loads) * share)
    if not 0 < held_out < len(statistics.loads):
        raise UserError(
            f"--validate {share} of {len(statistics.loads)} iterations leaves nothing on one side; "
            f"record more iterations"
        )
    cut = statistics.iterations.stop - held_out
    return statistics.between(None, cut), statistics.between(cut, None)

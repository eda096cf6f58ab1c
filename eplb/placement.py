"""Where each expert's replicas live: the three maps, and the one validator.

Covered: the shape of a deployment and its divisibility rules, and everything that can be wrong
with a program's answer. Not covered: how good a placement is (`eplb.loads`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eplb.common import UserError

_FAR_OUT, _MOST_LISTED = 10_000, 6
# Far more slots per layer than anybody deploys; arrays of them must fit into memory.
_MOST_SLOTS = 1 << 16


class InvalidPlacement(Exception):
    """A program's answer breaks the contract; the message names layer, slot and expert."""


@dataclass(frozen=True)
class Deployment:
    """The slots that experts are placed in.

    num_replicas: physical slots per layer; GPU g holds slots g*S … (g+1)*S-1, S = slots_per_gpu
    num_groups: groups of consecutive experts, as in group-limited routing
    num_nodes: nodes, each with num_gpus / num_nodes consecutive GPUs
    num_gpus: GPUs (expert-parallel ranks)
    """

    num_replicas: int = 288
    num_groups: int = 8
    num_nodes: int = 4
    num_gpus: int = 32

    @property
    def slots_per_gpu(self) -> int:
        return self.num_replicas // self.num_gpus

    @property
    def slots_per_node(self) -> int:
        return self.num_replicas // self.num_nodes

    @property
    def can_be_node_local(self) -> bool:
        """Whether whole groups can be spread evenly over the nodes."""
        return self.num_groups % self.num_nodes == 0

    def check(self, num_experts: int) -> None:
        """Raise `UserError` for the first rule that this deployment of ``num_experts`` breaks."""
        for name in ("num_replicas", "num_groups", "num_nodes", "num_gpus"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.num_replicas > _MOST_SLOTS:
            raise UserError(f"num_replicas {self.num_replicas} is more than {_MOST_SLOTS} slots")
        if self.num_replicas < num_experts:
            fits = fewest_slots(num_experts, self.num_gpus)
            raise UserError(
                f"num_replicas {self.num_replicas} is fewer than the {num_experts} experts, and "
                f"every expert needs a slot; the nearest value that works is {fits}"
            )
        _check_multiple("num_replicas", self.num_replicas, "num_gpus", self.num_gpus, num_experts)
        _check_multiple("num_gpus", self.num_gpus, "num_nodes", self.num_nodes, 1)
        if num_experts % self.num_groups:
            divisors = [d for d in range(1, num_experts + 1) if num_experts % d == 0]
            fits = min(divisors, key=lambda d: abs(d - self.num_groups))
            raise UserError(
                f"num_groups {self.num_groups} does not divide the {num_experts} experts; "
                f"the nearest value that works is {fits}"
            )


def fewest_slots(num_experts: int, num_gpus: int) -> int:
    """The fewest slots that hold every expert, as many on each GPU."""
    return -(-num_experts // num_gpus) * num_gpus


def _check_multiple(name: str, value: int, of: str, divisor: int, at_least: int) -> None:
    if value % divisor == 0:
        return
    below, above = value // divisor * divisor, -(-value // divisor) * divisor
    fits = [str(n) for n in (below, above) if n >= max(at_least, 1)]
    raise UserError(
        f"{name} {value} is not a multiple of {of} {divisor}; "
        f"the nearest value that works is {' or '.join(fits)}"
    )


@dataclass(frozen=True)
class ExpertPlacement:
    """A checked placement.

    phy2log: [layers, num_replicas] int64, the expert in each slot
    logcnt: [layers, experts] int64, replicas of each expert
    """

    phy2log: np.ndarray
    logcnt: np.ndarray

    @classmethod
    def from_phy2log(cls, phy2log: np.ndarray, num_experts: int) -> ExpertPlacement:
        """Count the replicas of ``phy2log`` [layers, num_replicas]."""
        phy2log = np.ascontiguousarray(phy2log, dtype=np.int64)
        return cls(phy2log, count_replicas(phy2log, num_experts))

    @property
    def num_experts(self) -> int:
        return self.logcnt.shape[1]

    @property
    def log2phy(self) -> np.ndarray:
        """[layers, experts, X] int64: each expert's slots in ascending order, then -1.

        Made anew each time: where one expert has many replicas it is much the largest map.
        """
        layers, slots = self.phy2log.shape
        by_expert = np.argsort(self.phy2log, axis=1, kind="stable")
        first = np.cumsum(self.logcnt, axis=1) - self.logcnt
        expert = np.take_along_axis(self.phy2log, by_expert, axis=1)
        rank = np.arange(slots) - np.take_along_axis(first, expert, axis=1)
        most = int(self.logcnt.max(initial=1))
        log2phy = np.full((*self.logcnt.shape, most), -1, dtype=np.int64)
        log2phy[np.arange(layers)[:, None], expert, rank] = by_expert
        return log2phy

    def holders(self, num_gpus: int) -> np.ndarray:
        """[layers, experts, num_gpus] bool: does the GPU hold a replica of the expert?"""
        layers, slots = self.phy2log.shape
        held = np.zeros((layers, self.num_experts, num_gpus), dtype=bool)
        gpu = np.arange(slots) // (slots // num_gpus)
        held[np.arange(layers)[:, None], self.phy2log, gpu] = True
        return held


def count_replicas(phy2log: np.ndarray, num_experts: int) -> np.ndarray:
    """[layers, experts] int64: how many slots of ``phy2log`` [layers, slots] hold each expert."""
    layers = phy2log.shape[0]
    cells = phy2log + np.arange(layers)[:, None] * num_experts
    return np.bincount(cells.ravel(), minlength=layers * num_experts).reshape(layers, num_experts)


def node_locality(phy2log: np.ndarray, num_experts: int, deployment: Deployment) -> float:
    """Share of (layer, group) pairs whose replicas all live on one node."""
    placement = ExpertPlacement.from_phy2log(phy2log, num_experts)
    return float((_nodes_touched(placement, deployment).sum(axis=2) == 1).mean())


def _nodes_touched(placement: ExpertPlacement, deployment: Deployment) -> np.ndarray:
    """[layers, num_groups, num_nodes] bool: does the node hold a replica of the group's experts?"""
    held = placement.holders(deployment.num_nodes)
    return held.reshape(len(held), deployment.num_groups, -1, deployment.num_nodes).any(axis=2)


def validate(
    phy2log: np.ndarray,
    log2phy: np.ndarray,
    logcnt: np.ndarray,
    *,
    num_layers: int,
    num_experts: int,
    deployment: Deployment,
    require_locality: bool = False,
) -> ExpertPlacement:
    """Recompute everything from ``phy2log`` and return the placement, or raise `InvalidPlacement`.

    Shapes and meaning are those of `ExpertPlacement`, except that ``log2phy`` may list an expert's
    slots in any order and have any X that holds them all. Nothing that the program claims is
    believed: ``logcnt`` and ``log2phy`` are compared with what ``phy2log`` implies.
    """
    _check_array("phy2log", phy2log, (num_layers, deployment.num_replicas))
    _check_array("logcnt", logcnt, (num_layers, num_experts))
    _check_array("log2phy", log2phy, (num_layers, num_experts, None))
    fault = expert_fault(phy2log, num_experts, range(num_layers))
    if fault is not None:
        raise InvalidPlacement(f"phy2log: {fault}")
    truth = ExpertPlacement.from_phy2log(phy2log, num_experts)
    _check_counts(logcnt, truth.logcnt)
    _check_slots(log2phy, truth)
    if require_locality:
        _check_locality(truth, deployment)
    return truth


def _check_array(name: str, array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    if array.dtype != np.int64:
        raise InvalidPlacement(f"{name} has dtype {array.dtype}; it must be int64")
    fits = array.ndim == len(shape) and all(
        want in (None, got) for want, got in zip(shape, array.shape, strict=False)
    )
    if not fits:
        wanted = ", ".join("X" if want is None else str(want) for want in shape)
        found = ", ".join(map(_shown, array.shape))
        raise InvalidPlacement(f"{name} has shape [{found}]; it must be [{wanted}]")


def expert_fault(phy2log: np.ndarray, num_experts: int, layers: Sequence[int]) -> str | None:
    """What keeps ``phy2log`` [layers, slots] from holding every expert, if anything does.

    layers: the number of each row's layer, for the words
    """
    bad = np.argwhere((phy2log < 0) | (phy2log >= num_experts))
    if bad.size:
        row, slot = bad[0]
        return (
            f"layer {layers[row]}, slot {slot} holds expert {_shown(phy2log[row, slot])}; "
            f"experts are 0 to {num_experts - 1}"
        )
    missing = np.argwhere(count_replicas(phy2log, num_experts) == 0)
    if missing.size:
        row, expert = missing[0]
        return f"layer {layers[row]} has no slot for expert {expert}"
    return None


def _shown(number: int) -> str:
    """A number that a program gave, unless it is so far out that it may be data, passed on."""
    return str(number) if -_FAR_OUT < number < _FAR_OUT else "out of range"


def _listed(slots: np.ndarray, wrong: int) -> str:
    """Some of a program's slots, the wrong one among them, for the same reason."""
    first = max(0, min(wrong, len(slots) - _MOST_LISTED))
    some = [_shown(slot) for slot in slots[first : first + _MOST_LISTED]]
    more = ["…"] if len(slots) > _MOST_LISTED else []
    return f"[{', '.join(more[:first] + some + more)}]"


def _check_counts(logcnt: np.ndarray, counts: np.ndarray) -> None:
    wrong = np.argwhere(logcnt != counts)
    if wrong.size:
        layer, expert = wrong[0]
        raise InvalidPlacement(
            f"logcnt: layer {layer}, expert {expert} claims {_shown(logcnt[layer, expert])} "
            f"replicas; phy2log has {counts[layer, expert]}"
        )


def _check_slots(log2phy: np.ndarray, truth: ExpertPlacement) -> None:
    """Compare ``log2phy`` with the true slots, whatever their order and the width of padding."""
    slots_of = truth.log2phy
    (_, _, room), (_, _, width) = log2phy.shape, slots_of.shape
    used = np.arange(room) < truth.logcnt[:, :, None]
    if room < width:
        layer, expert = np.argwhere(truth.logcnt > room)[0]
        raise InvalidPlacement(
            f"log2phy: layer {layer}, expert {expert} has {truth.logcnt[layer, expert]} slots in "
            f"phy2log; log2phy has room for {room}"
        )
    padded = np.argwhere(~used & (log2phy != -1))
    if padded.size:
        layer, expert, column = padded[0]
        raise InvalidPlacement(
            f"log2phy: layer {layer}, expert {expert}, column {column} holds "
            f"{_shown(log2phy[layer, expert, column])}; after the expert's "
            f"{truth.logcnt[layer, expert]} slots it must be -1"
        )
    # Unused cells sort last on both sides, so that sets are compared and not orders.
    beyond = np.iinfo(np.int64).max
    claimed = np.sort(np.where(used, log2phy, beyond)[:, :, :width], axis=2)
    actual = np.where(slots_of == -1, beyond, slots_of)
    wrong = np.argwhere(claimed != actual)
    if wrong.size:
        layer, expert, column = wrong[0]
        count = truth.logcnt[layer, expert]
        raise InvalidPlacement(
            f"log2phy: layer {layer}, expert {expert} lists slots "
            f"{_listed(claimed[layer, expert, :count], column)}; phy2log has it in "
            f"{_listed(actual[layer, expert, :count], column)}"
        )


def _check_locality(truth: ExpertPlacement, deployment: Deployment) -> None:
    touched = _nodes_touched(truth, deployment)
    spread = np.argwhere(touched.sum(axis=2) > 1)
    if spread.size:
        layer, group = spread[0]
        nodes = np.flatnonzero(touched[layer, group]).tolist()
        raise InvalidPlacement(
            f"locality: layer {layer}, group {group} is spread over nodes {nodes}; "
            f"every group must live on one node"
        )

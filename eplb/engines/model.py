"""What every engine's files come down to: expert statistics and expert placements.

Covered: the two in-memory forms, the checks that hold for all formats, and matching a placement
with statistics. Not covered: any file format (one module per engine) and planning
(`eplb.engines.planning`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from eplb.common import UserError
from eplb.placement import ExpertPlacement, expert_fault


@dataclass(frozen=True)
class ExpertStatistics:
    """Recorded loads.

    loads: [iterations, layers, experts] int64, tokens routed to each expert
    layers: the number of each layer in the model; dense layers have no row here
    first_iteration: number of the first iteration; the others follow one by one
    num_ranks: ranks that recorded, if the files tell
    top_k: experts per token, if the files tell
    model_layers: layers of the model including dense ones, if the files tell
    moe_layers_only: the files number the MoE layers from 0 and skip the dense ones
    """

    loads: np.ndarray
    layers: tuple[int, ...]
    first_iteration: int = 0
    num_ranks: int | None = None
    top_k: int | None = None
    model_layers: int | None = None
    moe_layers_only: bool = False

    @property
    def num_experts(self) -> int:
        return self.loads.shape[2]

    @property
    def iterations(self) -> range:
        return range(self.first_iteration, self.first_iteration + len(self.loads))

    def between(self, start: int | None, stop: int | None) -> ExpertStatistics:
        """Keep the iterations from ``start`` up to, but without, ``stop``; None is an open end."""
        known = self.iterations
        start = known.start if start is None else start
        stop = known.stop if stop is None else stop
        if not known.start <= start < stop <= known.stop:
            raise UserError(
                f"iterations {start} to {stop} (exclusive) are not in the statistics, which have "
                f"{known.start} to {known.stop} (exclusive); change --iter_start or --iter_stop"
            )
        first = start - known.start
        return replace(self, loads=self.loads[first : first + stop - start], first_iteration=start)


def statistics_from_rows(source: str, loads: np.ndarray, **known) -> ExpertStatistics:
    """Make statistics of ``loads`` [iterations, layers, experts] whose rows are a model's layers.

    Layers without a single token are dense ones: they lose their row and keep their number.
    Iterations without a single token are unused places of a ring buffer and are dropped.
    """
    loads = whole_counts(source, loads)
    if loads.ndim != 3 or 0 in loads.shape:
        raise UserError(
            f"{source}: counts have shape {list(loads.shape)}; "
            f"they must be [layers, experts] or [iterations, layers, experts]"
        )
    loads = loads[loads.any(axis=(1, 2))]
    layers = np.flatnonzero(loads.any(axis=(0, 2)))
    if not layers.size:
        raise UserError(f"{source}: no expert received any token; record under load")
    return ExpertStatistics(
        loads=np.ascontiguousarray(loads[:, layers]),
        layers=tuple(layers.tolist()),
        model_layers=loads.shape[1],
        **known,
    )


MOST_TOKENS = 2**53


def whole_counts(source: str, counts: np.ndarray) -> np.ndarray:
    """``counts`` as int64, if they are whole numbers of tokens; otherwise raise `UserError`."""
    counts = np.asarray(counts)
    if counts.dtype.kind not in "iuf":
        raise UserError(f"{source}: holds {counts.dtype} values; token counts are numbers")
    # Beyond 2**53 floats skip whole numbers, and no recording comes near.
    if counts.dtype.kind == "f" and not (counts == np.round(counts)).all():
        raise UserError(f"{source}: holds counts that are not whole numbers; record token counts")
    if counts.size and counts.max() >= MOST_TOKENS:
        raise UserError(
            f"{source}: holds a token count of {counts.max()}; no recording has so many"
        )
    if counts.size and counts.min() < 0:
        raise UserError(f"{source}: holds a negative token count ({counts.min()})")
    return counts.astype(np.int64)


@dataclass(frozen=True)
class EnginePlacement:
    """A placement as an engine deploys it.

    phy2log: [layers, slots] int64, the expert in each slot; GPU g holds consecutive slots
    layers: the number of each layer
    num_experts: logical experts per layer
    num_gpus: expert-parallel ranks, if the file tells
    layer_updates_per_iter: layers that TensorRT-LLM rebalances per iteration; 0 is static
    model_layers, moe_layers_only: as in `ExpertStatistics`
    """

    phy2log: np.ndarray
    layers: tuple[int, ...]
    num_experts: int
    num_gpus: int | None = None
    layer_updates_per_iter: int = 0
    model_layers: int | None = None
    moe_layers_only: bool = False

    def all_layers(self) -> np.ndarray:
        """[model layers, slots] int64: a row per layer of the model.

        Layers that have no experts get the placement an engine starts from, experts in order over
        and over, since formats with one row per layer want their place held.
        """
        slots = self.phy2log.shape[1]
        height = max(self.model_layers or 0, max(self.layers) + 1)
        rows = np.tile(np.arange(slots, dtype=np.int64) % self.num_experts, (height, 1))
        rows[list(self.layers)] = self.phy2log
        return rows


def checked_rows(source: str, layers: tuple[int, ...], rows: list):
    """Check a file's rows of expert ids; return ``phy2log`` [layers, slots] int64 and the experts.

    Every row must have the same length and hold every expert. There are as many experts as the
    highest id tells, since no file says how many.
    """
    arrays = [np.asarray(row) for row in rows]
    for layer, row in zip(layers, arrays, strict=True):
        if row.ndim != 1 or row.dtype.kind not in "iu" or not row.size:
            raise UserError(f"{source}: layer {layer} is not a list of expert ids")
        if len(row) != len(arrays[0]):
            raise UserError(
                f"{source}: layer {layer} has {len(row)} slots, "
                f"layer {layers[0]} has {len(arrays[0])}"
            )
    if not arrays:
        raise UserError(f"{source}: places no layer")
    phy2log = np.stack(arrays).astype(np.int64)
    num_experts = int(phy2log.max()) + 1
    if num_experts > phy2log.shape[1]:
        raise UserError(
            f"{source}: {phy2log.shape[1]} slots cannot hold {num_experts} experts, "
            f"0 to {num_experts - 1}; it is cut or malformed"
        )
    check_experts(source, layers, phy2log, num_experts)
    return phy2log, num_experts


def check_experts(source: str, layers: tuple[int, ...], phy2log: np.ndarray, num_experts: int):
    """Raise `UserError` unless each row of ``phy2log`` [layers, slots] holds every expert."""
    fault = expert_fault(phy2log, num_experts, layers)
    if fault is not None:
        raise UserError(f"{source}: {fault}")


def align(placement: EnginePlacement, statistics: ExpertStatistics, source: str) -> ExpertPlacement:
    """``placement`` with the layers of ``statistics``, in their order, or `UserError`.

    Layers match by number, or by order where one side numbers only the MoE layers.
    """
    if placement.num_experts != statistics.num_experts:
        raise UserError(
            f"{source} places {placement.num_experts} experts, the statistics count "
            f"{statistics.num_experts}: it belongs to another model"
        )
    if placement.moe_layers_only or statistics.moe_layers_only:
        if len(placement.layers) != len(statistics.layers):
            raise UserError(
                f"{source} places {len(placement.layers)} layers, the statistics count "
                f"{len(statistics.layers)}: it belongs to another model"
            )
        return ExpertPlacement.from_phy2log(placement.phy2log, placement.num_experts)
    row = {layer: index for index, layer in enumerate(placement.layers)}
    missing = [layer for layer in statistics.layers if layer not in row]
    if missing:
        raise UserError(f"{source} has no layer {missing[0]}, which the statistics count")
    # Formats with a row per layer of the model also have rows for dense layers.
    unknown = sorted(set(placement.layers) - set(statistics.layers))
    if unknown and placement.model_layers is None:
        raise UserError(
            f"{source} places layer {unknown[0]}, which is not in the statistics "
            f"(layers {statistics.layers[0]} to {statistics.layers[-1]})"
        )
    rows = placement.phy2log[[row[layer] for layer in statistics.layers]]
    return ExpertPlacement.from_phy2log(rows, placement.num_experts)

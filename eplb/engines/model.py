"""What every engine's files come down to: expert statistics and expert placements.

Covered: the two in-memory forms, how layers are numbered, and what a format does for its files.
Not covered: the formats themselves and checks of files' content (`eplb.engines.reading`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eplb.common import UserError
from eplb.engines.source import Source
from eplb.loads import expert_groups, experts_in_order
from eplb.placement import Deployment, ExpertPlacement, fewest_slots
from eplb.trace import TraceHeader


@dataclass(frozen=True)
class ExpertStatistics:
    """Recorded loads.

    loads: [iterations, layers, experts] int64, tokens routed to each expert
    layers: the number of each layer in the model
    first_iteration: number of the first iteration; the others follow one by one
    header: what the files tell of the model and of the deployment that recorded; a record of a
        trace is an iteration here
    model_layers: layers of the model including dense ones, if the files tell
    moe_layers_only: the files number the MoE layers from 0 and skip the dense ones
    notes: what the user should know of the files
    """

    loads: np.ndarray
    layers: tuple[int, ...]
    first_iteration: int = 0
    header: TraceHeader = TraceHeader()
    model_layers: int | None = None
    moe_layers_only: bool = False
    notes: tuple[str, ...] = ()

    @property
    def num_experts(self) -> int:
        return self.loads.shape[2]

    @property
    def deployment(self) -> Deployment | None:
        """What was recorded on, or None where the files do not tell the ranks.

        By default an expert has a slot, ranks have equally many, and there is one group and node.
        """
        known = self.header
        if not (gpus := known.num_gpus):
            return None
        slots = known.num_replicas or fewest_slots(self.num_experts, gpus)
        return Deployment(slots, known.num_groups or 1, known.num_nodes or 1, gpus)

    def on(self, **sizes: int | None) -> ExpertStatistics:
        """The same recording for a deployment of these ``sizes``; None leaves what is known."""
        given = {name: size for name, size in sizes.items() if size is not None}
        return replace(self, header=replace(self.header, **given))

    def grouped(self) -> ExpertStatistics:
        """The same with the expert groups that the loads show, where nothing tells of groups."""
        if self.header.num_groups is not None:
            return self
        many = expert_groups(self.loads)
        note = (
            f"the loads show {many} groups of {self.num_experts // many} experts that run hot "
            f"together, and num_groups is taken as {many}; give --num_groups if it is not"
        )
        return replace(self.on(num_groups=many), notes=(*self.notes, *[note] * (many > 1)))

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

    def numbered(self, first_moe_layer: int | None) -> ExpertStatistics:
        """Number the layers as the model does, and drop its dense layers.

        first_moe_layer: the number of the model's first MoE layer, if the user tells. Rows of MoE
            layers alone are numbered from it; None leaves them as they are.

        Where the files have a row for every layer of the model, the rows before the first token
        are dense layers, and so are those between in models with an MoE layer in every second,
        third, … place. Any other row without a token is an MoE layer that was not used.
        """
        if first_moe_layer is not None and first_moe_layer < 0:
            raise UserError(f"--first_moe_layer is {first_moe_layer}; layers count from 0")
        if self.moe_layers_only and first_moe_layer is not None:
            layers = tuple(first_moe_layer + row for row in range(len(self.layers)))
            return replace(self, layers=layers, moe_layers_only=False)
        if self.model_layers == len(self.layers):
            live = np.flatnonzero(self.loads.any(axis=(0, 2)))
            first = int(live[0]) if first_moe_layer is None else first_moe_layer
            if first > live[0]:
                raise UserError(f"--first_moe_layer is {first}, but layer {live[0]} has tokens")
            # Fewer layers with tokens than three tell no pattern.
            step = math.gcd(*np.diff(live).tolist()) if len(live) > 2 else 1
            rows = np.arange(live[0] - (live[0] - first) // step * step, len(self.layers), step)
            return replace(self, loads=self.loads[:, rows], layers=tuple(rows.tolist()))
        if first_moe_layer not in (None, self.layers[0]):
            raise UserError(
                f"--first_moe_layer is {first_moe_layer}, but the statistics number their layers "
                f"themselves, from {self.layers[0]}; leave it out"
            )
        return self


@dataclass(frozen=True)
class EnginePlacement:
    """A placement as an engine deploys it.

    phy2log: [layers, slots] int64, the expert in each slot; GPU g holds consecutive slots
    layers: the number of each layer
    num_experts: logical experts per layer
    num_gpus: expert-parallel ranks, if the file tells
    layer_updates_per_iter: layers that TensorRT-LLM rebalances per iteration; 0 is static
    every_layer: the one row holds for each MoE layer
    model_layers, moe_layers_only, notes: as in `ExpertStatistics`
    """

    phy2log: np.ndarray
    layers: tuple[int, ...]
    num_experts: int
    num_gpus: int | None = None
    layer_updates_per_iter: int = 0
    every_layer: bool = False
    model_layers: int | None = None
    moe_layers_only: bool = False
    notes: tuple[str, ...] = ()

    @property
    def checked(self) -> ExpertPlacement:
        """What this project's own formulas take; readers and planners have checked it."""
        return ExpertPlacement.from_phy2log(self.phy2log, self.num_experts)

    def all_layers(self) -> np.ndarray:
        """[model layers, slots] int64: a row per layer of the model.

        Layers that have no experts get the placement an engine starts from, experts in order over
        and over, since formats with one row per layer want their place held.
        """
        height = max(self.model_layers or 0, max(self.layers) + 1)
        rows = experts_in_order(height, self.num_experts, self.phy2log.shape[1]).phy2log
        rows[list(self.layers)] = self.phy2log
        return rows


@dataclass(frozen=True)
class Format:
    """What a file format is to this project; `eplb.engines.registry` lists them all.

    A new format is a module with a `Format` and its name in that list. For statistics `recognises`
    looks at the `Source` (its name, keys or first bytes) and `read` ends in
    `eplb.engines.reading.statistics_of`, which checks the counts and puts every fault into words::

        def read(source: Source) -> ExpertStatistics:
            return statistics_of(source, source.content["tokens"])

        FORMAT = Format("my-engine", lambda source: source.has("tokens"), read)

    recognises: whether the source is of this kind; must not raise for a well-formed file of another
    read: the content; raises `UserError` that names the source
    write_placement, write_statistics: None where there is no such file; a format with both is
        asked for placements
    suffixes: of the files that are written
    how_to_use: what to do with a written file, with {path} and {spare} (slots beyond the experts)
    one_replica_per_gpu: whether the engine takes a single replica of an expert per GPU
    numbers_moe_layers: whether dense layers have no number
    """

    name: str
    recognises: Callable[[Source], bool]
    read: Callable[[Source], ExpertStatistics | EnginePlacement]
    write_placement: Callable[[Path, EnginePlacement], None] | None = None
    write_statistics: Callable[[Path, ExpertStatistics], None] | None = None
    suffixes: tuple[str, ...] = ()
    how_to_use: str = ""
    one_replica_per_gpu: bool = False
    numbers_moe_layers: bool = False

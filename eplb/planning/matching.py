"""A placement file beside statistics: do both speak of one model, and which row is which layer?

Not covered: whether both are of one deployment, which depends on what they are compared for.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from eplb.common import UserError
from eplb.engines.model import EnginePlacement, ExpertStatistics
from eplb.engines.reading import spans

# Layers of multi-token prediction at the end of a model, which recordings may leave out.
MOST_MTP_LAYERS = 3


def align(
    placement: EnginePlacement, statistics: ExpertStatistics, source: Path
) -> EnginePlacement:
    """``placement`` of the layers and routed experts of ``statistics``, in their order.

    Layers match by number, or by order where one side numbers only the MoE layers. Layers that
    follow the last one of the statistics are taken as those of multi-token prediction, which a
    note tells. Raises `UserError` for a placement of another model; ``source`` is its file.
    """
    placement = without_shared(placement, statistics.num_experts)
    if placement.num_experts != statistics.num_experts:
        raise UserError(
            f"{source} places {placement.num_experts} experts, the statistics count "
            f"{statistics.num_experts}: it belongs to another model"
        )
    if placement.every_layer:
        rows = np.repeat(placement.phy2log, len(statistics.layers), axis=0)
        return replace(placement, phy2log=rows, layers=statistics.layers)
    places, counts = list(placement.layers), list(statistics.layers)
    by_order = placement.moe_layers_only or statistics.moe_layers_only
    if by_order:
        places, counts = list(range(len(places))), list(range(len(counts)))
    # Formats with a row per layer of the model also have rows for dense layers.
    has_dense = placement.model_layers is not None
    extra = sorted(set(places) - set(counts)) if by_order or not has_dense else []
    after_last = [*range(counts[-1] + 1, counts[-1] + 1 + len(extra))]
    is_mtp = not has_dense and extra == after_last and len(extra) <= MOST_MTP_LAYERS
    if set(counts) - set(places) or (extra and not is_mtp):
        way_out = "it belongs to another model"
        if statistics.moe_layers_only and not placement.moe_layers_only:
            way_out += ", or --first_moe_layer tells the number of the first of them"
        raise UserError(
            f"{source} places {len(places)} layers ({spans([*placement.layers])}), the statistics "
            f"count {len(counts)} ({spans([*statistics.layers])}): {way_out}"
        )
    notes = ()
    if extra:
        notes = (f"{source}: layer {spans(extra)} is not in the statistics; taken as MTP",)
    rows = placement.phy2log[[places.index(layer) for layer in counts]]
    return replace(placement, phy2log=rows, layers=statistics.layers, notes=notes)


def without_shared(placement: EnginePlacement, num_experts: int) -> EnginePlacement:
    """``placement`` of the ``num_experts`` routed experts, if the rest of it are shared ones.

    Shared experts have the ids after the routed ones. Either every device holds as many of them,
    or some devices hold nothing else. Anything else is returned as it is.
    """
    if placement.num_gpus is None or placement.num_experts <= num_experts:
        return placement
    slots = placement.phy2log.reshape(len(placement.layers), placement.num_gpus, -1)
    shared = (slots >= num_experts).sum(axis=2)
    only = (shared == slots.shape[2]).all(axis=0)
    rest = np.unique(shared[:, ~only])
    if len(rest) != 1:
        return placement
    routed = slots[:, ~only]
    routed = routed[routed < num_experts].reshape(len(slots), -1)
    return replace(placement, phy2log=routed, num_experts=num_experts, num_gpus=int((~only).sum()))

"""The work behind report_load_statistics.py: which placements to tabulate over how many ranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eplb.common import UserError
from eplb.engines import registry
from eplb.engines.model import EnginePlacement, ExpertStatistics
from eplb.loads import experts_in_order
from eplb.placement import Deployment, ExpertPlacement
from eplb.planning import load_table
from eplb.planning.matching import align, without_shared
from eplb.planning.planner import split
from eplb.throughput.profile import DEFAULT, Serving
from eplb.throughput.worth import worth


def report(
    *,
    expert_statistic_path: Path,
    eplb_config: Path | None = None,
    per_expert: bool = False,
    ep_size: int | None = None,
    iter_start: int | None = None,
    iter_stop: int | None = None,
    first_moe_layer: int | None = None,
    plot: Path | None = None,
    validate: float | None = None,
    hardware: Sequence[str] = (DEFAULT,),
    dispatch: str = "even",
) -> tuple[str, list[str]]:
    """The report of the recording, projected onto ``eplb_config`` if there is one, and warnings."""
    placement = registry.read_placement(eplb_config) if eplb_config else None
    statistics = registry.read_statistics(
        expert_statistic_path, iter_start, iter_stop, first_moe_layer
    )
    if validate is not None:
        statistics = split(statistics, validate)[1]
    layers, loads, experts = statistics.layers, statistics.loads, statistics.num_experts
    if placement is not None:
        placement = without_shared(placement, experts)
    num_gpus = None if per_expert else _ranks(statistics, placement, ep_size)
    before, warnings = None, [*statistics.notes]
    if num_gpus is not None:
        slots = -(-experts // num_gpus) * num_gpus
        before = experts_in_order(len(layers), experts, slots)
    tables = {"experts in order": load_table.tabulate(layers, loads, before, num_gpus)}
    if placement is not None:
        aligned, more = align(placement, statistics, str(eplb_config))
        nodes = (statistics.num_nodes or 1) if num_gpus else 1
        rule = (dispatch, nodes)
        tables[eplb_config.name] = load_table.tabulate(layers, loads, aligned, num_gpus, *rule)
        warnings += [*placement.notes, *more]
    if plot is not None:
        load_table.plot(plot, tables, "expert or slot" if per_expert else "rank")
    text = _text(statistics, tables, num_gpus)
    if placement is not None and num_gpus is not None:
        deployment = Deployment(aligned.phy2log.shape[1], 1, nodes, num_gpus)
        serving = Serving.of(hardware, dispatch, statistics.top_k)
        served = f"tokens per second on {' '.join(hardware)}, dispatch {dispatch}"
        text += f"\n\n{served}:\n{_worths(serving, loads, aligned, deployment)}"
    return text, warnings


def _worths(
    serving: Serving, loads: np.ndarray, placement: ExpertPlacement, deployment: Deployment
) -> str:
    """A line a phase: what the placement gains, and what is still lost."""
    window = loads.sum(axis=0)[None]
    worths = worth(serving.profiles.values(), window, [placement], deployment, serving.dispatch)
    return "\n".join(
        f"  {phase:<8} {each.gain:.3f} x experts in order; {each.kept:.3f} of the ideal, "
        f"lost to imbalance {each.lost['imbalance']:.3f}, spare slots "
        f"{each.lost['spare_slots']:.3f}"
        for phase, each in zip(serving.profiles, worths)
    )


def _ranks(
    statistics: ExpertStatistics, placement: EnginePlacement | None, ep_size: int | None
) -> int:
    """The argument, else the placement's, else as many as recorded."""
    placed = placement.num_gpus if placement else None
    known = (ep_size, placed, statistics.num_ranks)
    ranks = next((value for value in known if value is not None), None)
    if ranks is None:
        raise UserError(
            "the statistics do not tell the number of ranks; give --ep_size or --per_expert"
        )
    if placed not in (None, ranks):
        raise UserError(
            f"--ep_size is {ranks}, but the placement is one of {placed} devices; leave it out"
        )
    if placement is not None and placement.phy2log.shape[1] % ranks:
        raise UserError(
            f"the placement's {placement.phy2log.shape[1]} slots do not spread over {ranks} ranks; "
            f"give the --ep_size that it was made for"
        )
    return ranks


def _text(
    statistics: ExpertStatistics, tables: dict[str, load_table.LoadTable], num_gpus: int | None
) -> str:
    iterations = statistics.iterations
    unit = "expert or slot" if num_gpus is None else f"rank of {num_gpus}"
    lines = [f"tokens per {unit}, iterations {iterations.start} to {iterations[-1]}"]
    for name, table in tables.items():
        lines += ["", f"{name}:", str(table)]
    if len(tables) > 1:
        lines += ["", load_table.compare(tables)]
    return "\n".join(lines)

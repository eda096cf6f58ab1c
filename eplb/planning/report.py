"""The work behind report_load_statistics.py: which placements to tabulate over how many ranks.

Not covered: the tables and the picture (`eplb.planning.load_table`).
"""

from __future__ import annotations

from argparse import Namespace

from eplb.common import UserError
from eplb.engines import registry
from eplb.engines.model import EnginePlacement, ExpertStatistics
from eplb.loads import experts_in_order
from eplb.placement import Deployment, fewest_slots
from eplb.planning.load_table import LoadTable, compare, plot, tabulate
from eplb.planning.matching import align
from eplb.planning.planner import split
from eplb.throughput.profile import Serving
from eplb.throughput.worth import worth


def report(options: Namespace) -> tuple[str, list[str]]:
    """What the script's ``options`` ask for, and warnings. Raises `UserError`."""
    file, placement = options.eplb_config, None
    part = (options.iter_start, options.iter_stop, options.first_moe_layer)
    statistics = registry.read_statistics(options.expert_statistic_path, *part)
    if options.validate is not None:
        statistics = split(statistics, options.validate)[1]
    warnings = [*statistics.notes]
    if file is not None:
        placement = align(registry.read_placement(file), statistics, file)
        warnings += placement.notes
    gpus = None if options.per_expert else _ranks(statistics, placement, options.ep_size)
    before = deployment = None
    if gpus is not None:
        nodes = statistics.header.num_nodes or 1
        slots = fewest_slots(statistics.num_experts, gpus)
        before = experts_in_order(len(statistics.layers), statistics.num_experts, slots)
        deployment = Deployment(slots, 1, nodes, gpus)
    recorded = (statistics.layers, statistics.loads)
    tables = {"experts in order": tabulate(*recorded, before, deployment)}
    worths = ""
    if placement is not None:
        if gpus is not None:
            deployment = Deployment(placement.phy2log.shape[1], 1, nodes, gpus)
            worths = "\n\n" + _worths(options, statistics, placement, deployment)
        placed = (placement.checked, deployment, options.dispatch)
        tables[file.name] = tabulate(*recorded, *placed)
    if options.plot is not None:
        plot(options.plot, tables, "expert or slot" if gpus is None else "rank")
    return _text(statistics, tables, gpus) + worths, warnings


def _worths(
    options: Namespace,
    statistics: ExpertStatistics,
    placement: EnginePlacement,
    deployment: Deployment,
) -> str:
    """A line a phase: what the placement gains, and what is still lost."""
    serving = Serving.of(options.hardware, options.dispatch, statistics.header.top_k)
    window = statistics.loads.sum(axis=0)[None]
    served = ([placement.checked], deployment, serving.dispatch)
    lines = [
        f"tokens per second on {' '.join(options.hardware)}, dispatch {options.dispatch}:",
        *(
            f"  {phase:<8} {each.gain:.3f} x experts in order; {each.kept:.3f} of the ideal, "
            f"lost to imbalance {each.lost['imbalance']:.3f}, spare slots "
            f"{each.lost['spare_slots']:.3f}"
            for phase, each in zip(
                serving.profiles, worth(serving.profiles.values(), window, *served)
            )
        ),
    ]
    return "\n".join(lines)


def _ranks(
    statistics: ExpertStatistics, placement: EnginePlacement | None, ep_size: int | None
) -> int:
    """The argument, else the placement's, else as many as recorded."""
    placed = placement.num_gpus if placement else None
    ranks = ep_size or placed or statistics.header.num_gpus
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


def _text(statistics: ExpertStatistics, tables: dict[str, LoadTable], gpus: int | None) -> str:
    iterations = statistics.iterations
    unit = "expert or slot" if gpus is None else f"rank of {gpus}"
    lines = [f"tokens per {unit}, iterations {iterations.start} to {iterations[-1]}"]
    for name, table in tables.items():
        lines += ["", f"{name}:", str(table)]
    if len(tables) > 1:
        lines += ["", compare(tables)]
    return "\n".join(lines)

"""The work behind report_load_statistics.py: which placements to tabulate over how many ranks."""

from __future__ import annotations

from pathlib import Path

from eplb.common import UserError
from eplb.engines import planning, registry, report
from eplb.engines.model import EnginePlacement, ExpertStatistics, align


def make(
    *,
    expert_statistic_path: Path,
    eplb_config: Path | None = None,
    per_expert: bool = False,
    ep_size: int | None = None,
    iter_start: int | None = None,
    iter_stop: int | None = None,
    plot: Path | None = None,
) -> str:
    """The report of the recording, projected onto ``eplb_config`` if there is one."""
    report.check_plot(plot)
    placement = registry.read_placement(eplb_config) if eplb_config else None
    statistics = registry.read_statistics(expert_statistic_path, iter_start, iter_stop)
    num_gpus = None if per_expert else _ranks(statistics, placement, ep_size)
    before = None
    if num_gpus is not None:
        before = planning.place_in_order(len(statistics.layers), statistics.num_experts, num_gpus)
    tables = {
        "experts in order": report.tabulate(statistics.layers, statistics.loads, before, num_gpus)
    }
    if placement is not None:
        aligned = align(placement, statistics, str(eplb_config))
        tables[eplb_config.name] = report.tabulate(
            statistics.layers, statistics.loads, aligned, num_gpus
        )
    if plot is not None:
        report.plot(plot, tables)
    return _text(statistics, tables, num_gpus, per_expert)


def _ranks(
    statistics: ExpertStatistics, placement: EnginePlacement | None, ep_size: int | None
) -> int:
    """The argument, else the placement's, else as many as recorded."""
    recorded = statistics.num_ranks if (statistics.num_ranks or 1) > 1 else None
    known = (ep_size, placement.num_gpus if placement else None, recorded)
    ranks = next((value for value in known if value is not None), None)
    if ranks is None:
        raise UserError(
            "the statistics do not tell the number of ranks; give --ep_size or --per_expert"
        )
    if not 1 <= ranks <= statistics.num_experts:
        raise UserError(
            f"ep_size is {ranks}; it must be 1 to {statistics.num_experts}, the experts"
        )
    if placement is not None and placement.phy2log.shape[1] % ranks:
        raise UserError(
            f"the placement's {placement.phy2log.shape[1]} slots do not spread over {ranks} ranks; "
            f"give the --ep_size that it was made for"
        )
    return ranks


def _text(
    statistics: ExpertStatistics,
    tables: dict[str, report.LoadTable],
    num_gpus: int | None,
    per_expert: bool,
) -> str:
    iterations = statistics.iterations
    unit = "per expert or slot" if per_expert else f"per rank of {num_gpus}"
    lines = [f"tokens {unit}, iterations {iterations.start} to {iterations[-1]}"]
    for name, table in tables.items():
        lines += ["", f"{name}:", str(table)]
    if len(tables) > 1:
        lines += ["", report.compare(tables)]
    return "\n".join(lines)

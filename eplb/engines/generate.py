"""The work behind generate_eplb_config.py: read, plan, measure on held-out iterations, write."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from eplb.common import UserError, project_file
from eplb.engines import planning, registry, report
from eplb.engines.model import EnginePlacement, ExpertStatistics, align
from eplb.placement import Deployment


@dataclass(frozen=True)
class Generated:
    """What to tell the user: one line per warning, and what was done."""

    warnings: list[str]
    summary: str


def generate(
    *,
    expert_statistic_path: Path,
    output_path: Path,
    ep_size: int | None = None,
    num_slots: int | None = None,
    iter_start: int | None = None,
    iter_stop: int | None = None,
    layer_updates_per_iter: int = 0,
    num_groups: int = 1,
    num_nodes: int = 1,
    program_path: Path | None = None,
    format: str | None = None,
    validate: float | None = None,
) -> Generated:
    """Write ``output_path`` from the recording at ``expert_statistic_path``; see the script's help.

    Raises `UserError`, and then writes nothing.
    """
    name = registry.output_format(output_path, format)
    target = registry.FORMATS[name]
    if target.holds_placements and None in (ep_size, num_slots):
        raise UserError("a placement needs --ep_size and --num_slots")
    statistics = registry.read_statistics(expert_statistic_path, iter_start, iter_stop)
    if not target.holds_placements:
        target.write(output_path, statistics)
        return Generated([], _written(output_path, target, statistics))
    if layer_updates_per_iter < 0:
        raise UserError(f"layer_updates_per_iter is {layer_updates_per_iter}; 0 is static")
    deployment = planning.check_sizes(
        statistics.num_experts, num_slots, ep_size, num_groups, num_nodes
    )
    known, held_out = (statistics, None) if not validate else planning.split(statistics, validate)
    program = program_path or project_file(planning.DEFAULT_PROGRAM)
    placement = planning.plan(
        known, deployment, program, target.one_replica_per_gpu, hidden=(expert_statistic_path,)
    )
    placement = replace(placement, layer_updates_per_iter=layer_updates_per_iter)
    summary = f"planned with {program.name} on {_span(known)}\n"
    if held_out is not None:
        summary += _held_out_table(known, held_out, placement, deployment, program.name)
    target.write(output_path, placement)
    warnings = _warnings(name, statistics, deployment, layer_updates_per_iter)
    return Generated(warnings, summary + _written(output_path, target, statistics, num_slots))


def _span(statistics: ExpertStatistics) -> str:
    iterations = statistics.iterations
    return (
        f"iterations {iterations.start} to {iterations[-1]}, {len(statistics.layers)} layers of "
        f"{statistics.num_experts} experts"
    )


def _held_out_table(
    known: ExpertStatistics,
    held_out: ExpertStatistics,
    placement: EnginePlacement,
    deployment: Deployment,
    program: str,
) -> str:
    layers, loads = held_out.layers, held_out.loads
    placements = {
        "experts in order, no EPLB": planning.place_in_order(
            len(layers), known.num_experts, deployment.num_gpus
        ),
        "TensorRT-LLM's own rule": planning.place_by_engine_rule(known.loads, deployment),
        program: align(placement, held_out, program),
    }
    tables = {
        name: report.tabulate(layers, loads, each, deployment.num_gpus)
        for name, each in placements.items()
    }
    return (
        f"held out: measured on {_span(held_out)}, which the planner never saw, "
        f"over {deployment.num_gpus} ranks\n{report.compare(tables)}\n"
        f"the file holds this placement; without --validate it is planned on all iterations\n"
    )


def _written(
    path: Path, target: registry.Format, statistics: ExpertStatistics, num_slots: int = 0
) -> str:
    spare = num_slots - statistics.num_experts
    return f"wrote {path}\n" + target.how_to_use.format(path=path, spare=spare)


def _warnings(
    name: str, statistics: ExpertStatistics, deployment: Deployment, layer_updates_per_iter: int
) -> list[str]:
    """What the engine would ignore or misread."""
    found = []
    ranks = statistics.num_ranks
    if deployment.num_gpus == 1:
        found.append("ep_size 1 leaves nothing to balance; engines ignore EPLB then")
    if layer_updates_per_iter and name != "tensorrt-llm":
        found.append(f"--layer_updates_per_iter is TensorRT-LLM's; {name} files cannot hold it")
    if layer_updates_per_iter > len(statistics.layers):
        found.append(
            f"layer_updates_per_iter {layer_updates_per_iter} is more than the "
            f"{len(statistics.layers)} layers; the engine updates each layer at most once"
        )
    if ranks and 1 < ranks < deployment.num_gpus:
        found.append(
            f"the statistics hold {ranks} ranks, ep_size is {deployment.num_gpus}; if they were "
            f"recorded on this deployment, files of ranks are missing"
        )
    if deployment.num_nodes > 1 and not deployment.can_be_node_local:
        found.append(
            f"num_groups {deployment.num_groups} does not spread over num_nodes "
            f"{deployment.num_nodes}; most programs then ignore both"
        )
    if deployment.num_groups > 1 and deployment.num_nodes == 1:
        found.append("--num_groups has no effect with --num_nodes 1")
    if statistics.moe_layers_only and not registry.FORMATS[name].numbers_moe_layers:
        found.append(
            f"the statistics number MoE layers from 0, {name} expects the model's layer numbers; "
            f"right only for models without dense layers"
        )
    return found

"""The work behind generate_eplb_config.py: read, plan, measure, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import fill

from eplb.common import UserError, check_writable, project_file
from eplb.engines import planning, registry
from eplb.engines.choice import Choice
from eplb.engines.format import Format
from eplb.engines.load_table import compare, tabulate
from eplb.engines.model import EnginePlacement, ExpertStatistics
from eplb.engines.moves import from_current
from eplb.engines.reading import spans
from eplb.loads import experts_in_order
from eplb.placement import Deployment
from eplb.throughput.profile import DEFAULT, Serving


def generate(
    *,
    expert_statistic_path: Path,
    output_path: Path,
    ep_size: int | None = None,
    num_slots: int | None = None,
    iter_start: int | None = None,
    iter_stop: int | None = None,
    first_moe_layer: int | None = None,
    layer_updates_per_iter: int = 0,
    num_groups: int | None = None,
    num_nodes: int | None = None,
    program_path: Path | None = None,
    format: str | None = None,
    validate: float | None = None,
    current: Path | None = None,
    hardware: Sequence[str] = (DEFAULT,),
    dispatch: str = "even",
) -> tuple[str, list[str]]:
    """Write ``output_path`` from the recording at ``expert_statistic_path``; see the script's help.

    Returns what was done and warnings. Raises `UserError`, and then writes nothing.
    """
    target = registry.FORMATS[registry.output_format(output_path, format)]
    check_writable(output_path)
    if layer_updates_per_iter < 0:
        raise UserError(f"layer_updates_per_iter is {layer_updates_per_iter}; 0 is static")
    recorded = registry.read_statistics(
        expert_statistic_path, iter_start, iter_stop, first_moe_layer
    )
    ranks = recorded.num_ranks
    given = {
        "num_ranks": ep_size,
        "num_slots": num_slots,
        "num_groups": num_groups,
        "num_nodes": num_nodes,
    }
    recorded = replace(recorded, **{name: n for name, n in given.items() if n is not None})
    if target.write_placement is None:
        target.write_statistics(output_path, recorded)
        warnings = [*recorded.notes]
        if target.name == "trace" and not recorded.num_ranks:
            warnings.append("the trace does not tell its deployment; give --ep_size, --num_slots")
        return _written(output_path, target, 0), warnings
    deployment = _deployment(recorded)
    program = program_path or project_file(planning.DEFAULT_PROGRAM)

    def plan(statistics: ExpertStatistics, share: float | None = None):
        hidden = (expert_statistic_path,)
        one_each = target.one_replica_per_gpu
        return planning.plan(statistics, deployment, program, one_each, hidden, share)

    placement, choice, held_out = plan(recorded, validate)
    summary = _figures(recorded, held_out, choice, deployment, validate is not None)
    if current is not None:
        # The held-out iterations judge a plan that nobody has seen them for, moves included.
        rehearsal, unseen = choice, held_out
        if validate is not None:
            _, rehearsal, unseen = plan(planning.split(recorded, validate)[0])
        serving = Serving.of(hardware, dispatch, recorded.top_k)
        deployed = registry.read_placement(current)
        placement, moved = from_current(
            deployed, str(current), placement, rehearsal.best, unseen, deployment, serving
        )
        summary += f"\n\n{moved}"
    placement = replace(placement, layer_updates_per_iter=layer_updates_per_iter)
    target.write_placement(output_path, placement)
    warnings = [*recorded.notes, *_ignored(target, deployment, placement, ranks)]
    if num_groups and num_groups > 1 and deployment.num_nodes == 1:
        warnings.append("--num_groups has no effect with --num_nodes 1")
    spare = deployment.num_replicas - recorded.num_experts
    return f"{summary}\n{_written(output_path, target, spare)}", warnings


def _deployment(statistics: ExpertStatistics) -> Deployment:
    """TensorRT-LLM's defaults where neither user nor files tell: recorded ranks, a slot each."""
    experts, ranks = statistics.num_experts, statistics.num_ranks
    if ranks is None:
        raise UserError("the statistics do not tell the number of ranks; give --ep_size")
    slots = statistics.num_slots or experts
    groups, nodes = statistics.num_groups or 1, statistics.num_nodes or 1
    return planning.check_sizes(experts, slots, ranks, groups, nodes)


def _figures(
    statistics: ExpertStatistics,
    held_out: ExpertStatistics,
    choice: Choice,
    deployment: Deployment,
    validated: bool,
) -> str:
    """The plans' figures on what they were measured on."""
    shape = (len(held_out.layers), statistics.num_experts, deployment.num_replicas)
    before = tabulate(
        held_out.layers, held_out.loads, experts_in_order(*shape), deployment.num_gpus
    )
    used, measured = spans([*statistics.iterations]), spans([*held_out.iterations])
    lines = [
        f"{len(statistics.layers)} layers of {statistics.num_experts} experts on "
        f"{deployment.num_replicas} slots of {deployment.num_gpus} ranks, iterations {used}",
        "",
        compare({"experts in order": before} | choice.tables),
        f"{choice}",
    ]
    if held_out is statistics:
        lines.append("measured on what was planned on, for want of iterations to hold out")
    elif validated:
        lines.append(f"held out: iterations {measured}, which no plan saw; nor did the file's")
    else:
        lines.append(
            f"measured on iterations {measured}, held out; the file's plan is made from all"
        )
    return "\n".join(lines)


def _written(path: Path, target: Format, spare: int) -> str:
    hint = target.how_to_use.format(path=path, spare=spare)
    return f"wrote {path}\n" + fill(hint, 80, break_long_words=False, break_on_hyphens=False)


def _ignored(
    target: Format, deployment: Deployment, placement: EnginePlacement, recorded_ranks: int | None
) -> list[str]:
    """What the engine would ignore or misread."""
    found = []
    layers, updates = placement.layers, placement.layer_updates_per_iter
    if deployment.num_gpus == 1:
        found.append("ep_size 1 leaves nothing to balance; engines ignore EPLB then")
    if updates and target.name != "tensorrt-llm":
        found.append(
            f"--layer_updates_per_iter is TensorRT-LLM's; {target.name} files cannot hold it"
        )
    if updates > len(layers):
        found.append(
            f"layer_updates_per_iter {updates} is more than the {len(layers)} layers; "
            f"the engine updates each layer at most once"
        )
    if deployment.num_nodes > 1 and not deployment.can_be_node_local:
        found.append(
            f"num_groups {deployment.num_groups} does not spread over num_nodes "
            f"{deployment.num_nodes}; most programs then ignore both"
        )
    if placement.moe_layers_only and not target.numbers_moe_layers:
        found.append(
            f"the statistics number the MoE layers alone, {target.name} the model's layers: "
            f"written as layers {spans([*layers])}; give --first_moe_layer (3 for DeepSeek-V3) "
            f"if the model begins with dense layers"
        )
    if recorded_ranks and recorded_ranks < deployment.num_gpus:
        found.append(
            f"the statistics hold {recorded_ranks} ranks, ep_size is {deployment.num_gpus}; if "
            f"they were recorded on this deployment, files of ranks are missing"
        )
    return found

"""The work behind generate_eplb_config.py: read, plan, measure, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from textwrap import fill

from eplb.common import UserError, check_writable, project_file
from eplb.engines import registry
from eplb.engines.choice import Choice
from eplb.engines.model import EnginePlacement, ExpertStatistics, Format
from eplb.engines.reading import spans
from eplb.loads import experts_in_order
from eplb.placement import Deployment
from eplb.planning import planner
from eplb.planning.load_table import compare, tabulate
from eplb.planning.moves import from_current
from eplb.throughput.profile import DEFAULT, Serving


@dataclass(frozen=True)
class Request:
    """What is asked for, as the script's options; None where files or defaults tell."""

    expert_statistic_path: Path
    output_path: Path
    ep_size: int | None = None
    num_slots: int | None = None
    iter_start: int | None = None
    iter_stop: int | None = None
    first_moe_layer: int | None = None
    layer_updates_per_iter: int = 0
    num_groups: int | None = None
    num_nodes: int | None = None
    program_path: Path | None = None
    format: str | None = None
    validate: float | None = None
    current: Path | None = None
    hardware: Sequence[str] = (DEFAULT,)
    dispatch: str = "even"

    def read(self) -> tuple[ExpertStatistics, int | None]:
        """The recording, with the sizes that were given, and the ranks that it was recorded on."""
        recorded = registry.read_statistics(
            self.expert_statistic_path, self.iter_start, self.iter_stop, self.first_moe_layer
        )
        names = ("num_slots", "num_groups", "num_nodes")
        sizes = {"num_ranks": self.ep_size} | {name: getattr(self, name) for name in names}
        given = {name: size for name, size in sizes.items() if size is not None}
        return replace(recorded, **given), recorded.num_ranks


def generate(**options) -> tuple[str, list[str]]:
    """Write the file that a `Request` of ``options`` asks for; returns what was done and warnings.

    Raises `UserError`, and then writes nothing.
    """
    request = Request(**options)
    output = request.output_path
    target = registry.FORMATS[registry.output_format(output, request.format)]
    check_writable(output)
    if request.layer_updates_per_iter < 0:
        raise UserError(f"layer_updates_per_iter is {request.layer_updates_per_iter}; 0 is static")
    statistics, recorded_ranks = request.read()
    warnings = [*statistics.notes]
    if target.write_placement is None:
        target.write_statistics(output, statistics)
        if target.name == "trace" and not statistics.num_ranks:
            warnings.append("the trace does not tell its deployment; give --ep_size, --num_slots")
        return _written(output, target, 0), warnings
    deployment = statistics.deployment
    if deployment is None:
        raise UserError("the statistics do not tell the number of ranks; give --ep_size")
    planner.check_sizes(deployment, statistics.num_experts)
    placement, summary = _plan(request, target, statistics, deployment)
    placement = replace(placement, layer_updates_per_iter=request.layer_updates_per_iter)
    target.write_placement(output, placement)
    spare = deployment.num_replicas - statistics.num_experts
    warnings += _ignored(request, target, deployment, placement, recorded_ranks)
    return f"{summary}\n{_written(output, target, spare)}", warnings


def _plan(
    request: Request, target: Format, statistics: ExpertStatistics, deployment: Deployment
) -> tuple[EnginePlacement, str]:
    """The placement to write, and its figures."""
    plan = partial(
        planner.plan,
        deployment=deployment,
        program=request.program_path or project_file(planner.DEFAULT_PROGRAM),
        one_replica_per_gpu=target.one_replica_per_gpu,
        hidden=(request.expert_statistic_path,),
    )
    share = request.validate
    placement, choice, held_out = plan(statistics, validate_share=share)
    figures = _figures(statistics, held_out, choice, deployment, share is not None)
    if request.current is None:
        return placement, figures
    if share is not None:
        # The held-out iterations judge a plan that nobody has seen them for, moves included.
        _, choice, held_out = plan(planner.split(statistics, share)[0])
    placement, moved = from_current(
        registry.read_placement(request.current),
        str(request.current),
        placement,
        choice.best,
        held_out,
        deployment,
        Serving.of(request.hardware, request.dispatch, statistics.top_k),
    )
    return placement, f"{figures}\n\n{moved}"


def _figures(
    statistics: ExpertStatistics,
    held_out: ExpertStatistics,
    choice: Choice,
    deployment: Deployment,
    validated: bool,
) -> str:
    """The plans' figures on what they were measured on."""
    shape = (len(held_out.layers), statistics.num_experts, deployment.num_replicas)
    plans = {"experts in order": experts_in_order(*shape)} | choice.plans
    tables = {
        name: tabulate(held_out.layers, held_out.loads, plan, deployment.num_gpus)
        for name, plan in plans.items()
    }
    used, measured = spans([*statistics.iterations]), spans([*held_out.iterations])
    lines = [
        f"{len(statistics.layers)} layers of {statistics.num_experts} experts on "
        f"{deployment.num_replicas} slots of {deployment.num_gpus} ranks, iterations {used}",
        "",
        compare(tables),
        fill(f"{choice}", 80),
    ]
    if held_out is statistics:
        lines.append("measured on what was planned on, for want of iterations to hold out")
    elif validated:
        lines.append(f"held out: iterations {measured}, which no plan saw; nor did the file's")
    else:
        more = "held out; the file's plan is made from all"
        lines.append(f"measured on iterations {measured}, {more}")
    return "\n".join(lines)


def _written(path: Path, target: Format, spare: int) -> str:
    hint = target.how_to_use.format(path=path, spare=spare)
    return f"wrote {path}\n" + fill(hint, 80, break_long_words=False, break_on_hyphens=False)


def _ignored(
    request: Request,
    target: Format,
    deployment: Deployment,
    placement: EnginePlacement,
    recorded_ranks: int | None,
) -> list[str]:
    """What the engine would ignore or misread."""
    layers, updates = placement.layers, placement.layer_updates_per_iter
    gpus, groups, nodes = deployment.num_gpus, deployment.num_groups, deployment.num_nodes
    warnings = {
        "ep_size 1 leaves nothing to balance; engines ignore EPLB then": gpus == 1,
        f"--layer_updates_per_iter is TensorRT-LLM's; {target.name} files cannot hold it": (
            updates and target.name != "tensorrt-llm"
        ),
        f"layer_updates_per_iter {updates} is more than the {len(layers)} layers; the engine "
        f"updates each layer at most once": updates > len(layers),
        f"num_groups {groups} does not spread over num_nodes {nodes}; most programs then ignore "
        f"both": nodes > 1 and not deployment.can_be_node_local,
        "--num_groups has no effect with --num_nodes 1": (
            (request.num_groups or 1) > 1 and nodes == 1
        ),
        f"the statistics number the MoE layers alone, {target.name} the model's layers: written "
        f"as layers {spans([*layers])}; give --first_moe_layer (3 for DeepSeek-V3) if the model "
        f"begins with dense layers": placement.moe_layers_only and not target.numbers_moe_layers,
        f"the statistics hold {recorded_ranks} ranks, ep_size is {gpus}; if they were recorded on "
        f"this deployment, files of ranks are missing": recorded_ranks and recorded_ranks < gpus,
    }
    return [words for words, holds in warnings.items() if holds]

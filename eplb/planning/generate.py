"""The work behind generate_eplb_config.py: read, plan, measure, write.

Covered: the order of the work, the figures that are printed, and warnings of what an engine would
ignore. Not covered: planning (`eplb.planning.planner`) and file formats (`eplb.engines`).
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import fill

from eplb.common import UserError
from eplb.engines import registry
from eplb.engines.choice import Choice
from eplb.engines.model import EnginePlacement, ExpertStatistics, Format
from eplb.engines.reading import spans
from eplb.loads import experts_in_order
from eplb.placement import Deployment
from eplb.planning import moves, planner
from eplb.planning.load_table import compare, tabulate
from eplb.throughput.profile import Serving


def generate(options: Namespace) -> tuple[str, list[str]]:
    """Write the file that the script's ``options`` ask for; returns what was done and warnings.

    Raises `UserError`, and then writes nothing.
    """
    output, updates = options.output_path, options.layer_updates_per_iter
    target = registry.output_format(output, options.format)
    if updates < 0:
        raise UserError(f"layer_updates_per_iter is {updates}; 0 is static")
    part = (options.iter_start, options.iter_stop, options.first_moe_layer)
    recorded = registry.read_statistics(options.expert_statistic_path, *part)
    statistics = recorded.on(
        num_gpus=options.ep_size,
        num_replicas=options.num_slots,
        num_groups=options.num_groups,
        num_nodes=options.num_nodes,
    ).grouped()
    warnings = [*statistics.notes]
    if target.write_placement is None:
        target.write_statistics(output, statistics)
        if target.name == "trace" and not statistics.header.num_gpus:
            warnings.append("the trace does not tell its deployment; give --ep_size, --num_slots")
        return _written(output, target, 0), warnings
    deployment = statistics.deployment
    if deployment is None:
        raise UserError("the statistics do not tell the number of ranks; give --ep_size")
    planner.check_sizes(deployment, statistics.num_experts)
    placement, summary = _plan(options, target, statistics, deployment)
    target.write_placement(output, replace(placement, layer_updates_per_iter=updates))
    warnings += _ignored(options, target, deployment, placement, recorded.header.num_gpus)
    spare = deployment.num_replicas - statistics.num_experts
    return f"{summary}\n{_written(output, target, spare)}", warnings


def _plan(
    options: Namespace, target: Format, statistics: ExpertStatistics, deployment: Deployment
) -> tuple[EnginePlacement, str]:
    """The placement to write, and its figures."""
    share, current = options.validate, options.current
    if current is not None:
        # Before the long work, since both may be refused.
        before = moves.deployed(current, statistics, deployment)
        serving = Serving.of(options.hardware, options.dispatch, statistics.header.top_k)
    plan = partial(
        planner.plan,
        deployment=deployment,
        program=options.program_path,
        one_replica_per_gpu=target.one_replica_per_gpu,
        hidden=(options.expert_statistic_path,),
    )
    placement, choice, held_out = plan(statistics, validate_share=share)
    figures = _figures(statistics, held_out, choice, deployment, share is not None)
    if current is None:
        return placement, figures
    if share is not None:
        # The held-out iterations judge a plan that nobody has seen them for, moves included.
        _, choice, held_out = plan(planner.split(statistics, share)[0])
    load = held_out.loads.sum(axis=0)
    written, moved = moves.reached(
        before, placement.checked, choice.best, load, deployment, serving
    )
    figures += f"\n\nto fetch from what {current} holds:\n{moved}"
    return replace(placement, phy2log=written.phy2log), figures


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
        name: tabulate(held_out.layers, held_out.loads, plan, deployment)
        for name, plan in plans.items()
    }
    used, measured = spans([*statistics.iterations]), spans([*held_out.iterations])
    if held_out is statistics:
        what = "measured on what was planned on, for want of iterations to hold out"
    elif validated:
        what = f"held out: iterations {measured}, which no plan saw; nor did the file's"
    else:
        what = f"measured on iterations {measured}, held out; the file's plan is made from all"
    return (
        f"{len(statistics.layers)} layers of {statistics.num_experts} experts on "
        f"{deployment.num_replicas} slots of {deployment.num_gpus} ranks, iterations {used}\n\n"
        f"{compare(tables)}\n{fill(f'{choice}', 80)}\n{what}"
    )


def _written(path: Path, target: Format, spare: int) -> str:
    hint = target.how_to_use.format(path=path, spare=spare)
    return f"wrote {path}\n" + fill(hint, 80, break_long_words=False, break_on_hyphens=False)


def _ignored(
    options: Namespace,
    target: Format,
    deployment: Deployment,
    placement: EnginePlacement,
    recorded_ranks: int | None,
) -> list[str]:
    """What the engine would ignore or misread."""
    layers, updates = placement.layers, options.layer_updates_per_iter
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
        f"the statistics number the MoE layers alone, {target.name} the model's layers: written "
        f"as layers {spans([*layers])}; give --first_moe_layer (3 for DeepSeek-V3) if the model "
        f"begins with dense layers": placement.moe_layers_only and not target.numbers_moe_layers,
        f"the statistics hold {recorded_ranks} ranks, ep_size is {gpus}; if they were recorded on "
        f"this deployment, files of ranks are missing": recorded_ranks and recorded_ranks < gpus,
    }
    return [words for words, holds in warnings.items() if holds]

"""What programs are shown and compared with, and that the right slots come out.

Run it with `pytest tests/planning/test_planner.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb.common import UserError, project_file
from eplb.engines.choice import choose, greedy_rules, place_greedily
from eplb.engines.model import EnginePlacement
from eplb.loads import experts_in_order, gpu_loads
from eplb.placement import Deployment, ExpertPlacement, node_locality
from eplb.planning import planner
from eplb.planning.expected import WINDOWS, expected_load, windows_to_show
from eplb.planning.matching import align, without_shared
from eplb.planning.one_replica import part_replicas
from tests.engines.samples import statistics
from tests.strategies import random_loads, random_phy2log, seeds

few = settings(max_examples=25, deadline=None)


def test_sizes_name_the_nearest_that_work():
    with pytest.raises(
        UserError, match="num_slots 321 is not a multiple of ep_size 8.* 320 or 328"
    ):
        planner.check_sizes(Deployment(321, 1, 1, 8), 256)
    with pytest.raises(UserError, match="num_slots 200 is fewer than the 256 experts.* 256"):
        planner.check_sizes(Deployment(200, 1, 1, 8), 256)
    with pytest.raises(UserError, match="num_slots 257 is not a multiple of ep_size 12.* 264"):
        planner.check_sizes(Deployment(257, 1, 1, 12), 257)
    with pytest.raises(UserError, match="ep_size 8 is not a multiple of num_nodes 3"):
        planner.check_sizes(Deployment(320, 1, 3, 8), 256)
    planner.check_sizes(Deployment(320, 8, 2, 8), 256)


def test_steady_traffic_is_summed_and_drifting_traffic_forgotten():
    steady = statistics(iterations=40).loads
    assert np.array_equal(expected_load(steady), steady.sum(axis=0))
    moving = np.concatenate([steady[:30], steady[:30, :, ::-1]])
    load = expected_load(moving)
    assert abs(load.sum() - moving.sum()) < load.size
    late = moving[30:].sum(axis=0)
    share, wanted, plain = (x / x.sum() for x in (load, late, moving.sum(axis=0)))
    assert np.abs(share - wanted).sum() < 0.5 * np.abs(plain - wanted).sum()


def test_programs_see_the_history_and_last_of_all_everything():
    loads = statistics(iterations=47).loads
    windows = windows_to_show(loads)
    assert len(windows) == WINDOWS + 1
    assert np.array_equal(windows[:-1].sum(axis=0), loads.sum(axis=0))
    assert np.array_equal(windows[0], loads[:3].sum(axis=0))
    assert np.abs(windows[-1] * WINDOWS - expected_load(loads)).max() <= 10
    assert len(windows_to_show(loads[:1])) == 2


def slow_engine_rule(load: np.ndarray, slots: int, gpus: int) -> list[list[int]]:
    """The experts of each rank, by looking at everything each time."""
    replicas = [1] * len(load)
    while sum(replicas) < slots:
        replicas[max(range(len(load)), key=lambda e: (load[e] / replicas[e], -e))] += 1
    todo = [(load[e] / replicas[e], e) for e in range(len(load)) for _ in range(replicas[e])]
    ranks, carried = [[] for _ in range(gpus)], [0.0] * gpus
    for tokens, expert in sorted(todo, key=lambda item: (-item[0], item[1])):
        roomy = [g for g in range(gpus) if len(ranks[g]) < slots // gpus]
        lightest = min(roomy, key=lambda g: (carried[g], g))
        ranks[lightest].append(expert)
        carried[lightest] += tokens
    return ranks


@few
@given(seeds, st.integers(1, 4), st.integers(1, 6), st.integers(1, 12))
def test_engine_rule_equals_a_slow_one(seed, gpus, per_gpu, experts):
    slots = gpus * per_gpu
    loads = random_loads(seed, 3, 2, min(experts, slots))
    placed = place_greedily(loads.sum(axis=0), Deployment(slots, 1, 1, gpus))
    for layer, row in enumerate(placed.phy2log):
        ranks = slow_engine_rule(loads.sum(axis=0)[layer], slots, gpus)
        assert row.reshape(gpus, -1).tolist() == [sorted(rank) for rank in ranks]


@few
@given(seeds)
def test_parted_replicas_are_on_different_gpus(seed):
    slots = random_phy2log(seed, 1, 24, 14)[0]
    parted = part_replicas(slots, random_loads(seed, 14), 6)
    assert set(parted.tolist()) == set(range(14))
    for gpu in parted.reshape(6, 4):
        assert len(set(gpu.tolist())) == 4
    # Only what is too much for six GPUs changes hands.
    before, after = (np.bincount(each, minlength=14) for each in (slots, parted))
    if before.max() <= 6:
        assert np.array_equal(before, after)
    assert np.maximum(before - after, 0).sum() == np.maximum(before - 6, 0).sum()


def test_parting_leaves_good_slots_alone_and_names_the_impossible():
    slots = np.array([0, 1, 2, 3, 1, 0])
    assert part_replicas(slots, np.ones(4), 3).tolist() == slots.tolist()
    with pytest.raises(UserError, match="2 experts fill at most 4 slots"):
        part_replicas(np.array([0, 1, 0, 1, 0, 1]), np.ones(2), 2)


def test_excess_replicas_go_to_the_hottest_and_exchanges_keep_gpus_cool():
    """Expert 0 has three replicas for two GPUs; the hottest other one is expert 2."""
    parted = part_replicas(np.array([0, 0, 1, 0, 2, 3]), np.array([90, 5, 30, 5]), 2)
    assert sorted(parted.tolist()) == [0, 0, 1, 2, 2, 3]


def test_split_keeps_order_and_numbers():
    known, held_out = planner.split(statistics(iterations=20), 0.2)
    assert (known.iterations, held_out.iterations) == (range(100, 116), range(116, 120))
    assert planner.split(statistics(iterations=20), None)[1].iterations == range(116, 120)
    everything = statistics(iterations=9)
    assert planner.split(everything, None) == (everything, everything)
    idle = statistics(iterations=20)
    idle.loads[16:] = 0
    assert planner.split(idle, None) == (idle, idle)
    with pytest.raises(UserError, match="--validate 0.1 leaves a side without tokens"):
        planner.plan(idle, Deployment(16, 1, 1, 4), Path("nowhere.py"), validate_share=0.1)
    for share in (0, 1, -0.5, 0.01):
        with pytest.raises(UserError, match="--validate"):
            planner.split(statistics(iterations=20), share)


def program(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "program.py"
    path.write_text(
        "import torch\n# EVOLVE-BLOCK-START\n"
        "def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):\n"
        f"{body}\n# EVOLVE-BLOCK-END\nrun_eplb = rebalance_experts\n"
    )
    return path


def test_programs_that_break_the_contract_are_refused_in_a_line(tmp_path):
    """Either wrong in its answer or, for a load of one layer, failing."""
    faulty = program(
        tmp_path,
        "    if len(weight) == 1:\n        raise ValueError('no idea')\n"
        "    return (torch.zeros(3, 20, dtype=torch.int64),) * 3",
    )
    deployment = Deployment(20, 1, 1, 4)
    with pytest.raises(UserError, match="program.py gives no placement: .*logcnt has shape"):
        planner.plan(statistics(), deployment, faulty)
    with pytest.raises(UserError, match="program.py gives no placement: .*no idea"):
        planner.plan(statistics(layers=(3,)), deployment, faulty)
    with pytest.raises(UserError, match="nowhere.py"):
        planner.plan(statistics(), deployment, tmp_path / "nowhere.py")


def test_the_seed_program_plans_and_keeps_the_layers():
    recorded, deployment = statistics(layers=(3, 7, 9)), Deployment(20, 1, 1, 4)
    placement, _, _ = planner.plan(recorded, deployment, project_file("initial.py"))
    assert (placement.layers, placement.num_gpus) == ((3, 7, 9), 4)
    placed = align(placement, recorded, "it").checked
    before = experts_in_order(3, 16, 16)
    hottest = [
        gpu_loads(recorded.loads.sum(axis=0), each, 4).max(axis=1) for each in (placed, before)
    ]
    assert (hottest[0] < hottest[1]).all()


def placement_of(layers: tuple[int, ...], experts: int = 16, **more) -> EnginePlacement:
    rows = np.array([np.roll(np.arange(experts), layer) for layer in layers])
    return EnginePlacement(rows, layers, experts, **more)


def test_layers_match_by_number_or_by_order():
    recorded = statistics(layers=(3, 4))
    by_number = align(placement_of((0, 1, 2, 3, 4), model_layers=5), recorded, "it")
    assert by_number.phy2log[:, 0].tolist() == [13, 12]
    by_order = align(placement_of((0, 1), moe_layers_only=True), recorded, "it")
    assert by_order.phy2log[:, 0].tolist() == [0, 15] and not by_order.notes


def test_layers_after_the_last_are_those_of_multi_token_prediction():
    recorded = statistics(layers=(3, 4))
    for placement in (placement_of((0, 1, 2), moe_layers_only=True), placement_of((3, 4, 5))):
        placed = align(placement, recorded, "it")
        assert len(placed.phy2log) == 2 and "taken as MTP" in placed.notes[0]


def test_shared_experts_are_taken_out():
    """As a slot on every device, and as devices of their own."""
    mixed = EnginePlacement(np.array([[0, 1, 4, 2, 3, 4]]), (0,), 5, num_gpus=2)
    apart = EnginePlacement(np.array([[4, 4, 0, 1, 2, 3]]), (0,), 5, num_gpus=3)
    for placement in (mixed, apart):
        routed = without_shared(placement, 4)
        assert routed.phy2log.tolist() == [[0, 1, 2, 3]]
        assert (routed.num_experts, routed.num_gpus) == (4, 2)
    unlike = EnginePlacement(np.array([[0, 1, 4, 2, 3, 0]]), (0,), 5, num_gpus=2)
    assert without_shared(unlike, 4) is unlike


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (placement_of((3, 4), experts=8), "places 8 experts, the statistics count 16"),
        (placement_of((3, 4, 61)), r"3 layers \(3 to 4, 61\), the statistics count 2 \(3 to 4\)"),
        (placement_of((3,)), r"places 1 layers \(3\), the statistics count 2"),
        (placement_of(tuple(range(7)), moe_layers_only=True), "places 7 layers"),
    ],
)
def test_a_placement_of_another_model_is_named(placement, message):
    with pytest.raises(UserError, match=message):
        align(placement, statistics(layers=(3, 4)), "it")


def test_the_better_plan_is_kept_with_its_figures():
    """Heavy experts 0 and 1 on one GPU are worse than apart."""
    loads = np.array([[[9, 9, 1, 1]], [[0, 0, 0, 0]]])
    two = Deployment(4, 1, 1, 2)
    together = ExpertPlacement.from_phy2log(np.array([[0, 1, 2, 3]]), 4)
    choice = choose({"bad": together, "greedy": place_greedily(loads[0], two)}, loads, two)
    assert choice.kept == "greedy"
    assert str(choice) == "kept greedy, 0.4444 of balancedness above bad"
    assert choose({"one": together, "two": together}, loads, two).kept == "one"


def in_order_program(tmp_path: Path) -> Path:
    return program(
        tmp_path,
        "    layers, experts = weight.shape\n"
        "    assert weight.sum(1).min() > 0\n"
        "    slots = torch.arange(num_replicas).expand(layers, -1) % experts\n"
        "    map = torch.arange(num_replicas).view(1, -1, 1).expand(layers, -1, 1)\n"
        "    return slots.contiguous(), map, torch.ones(layers, experts, dtype=torch.int64)",
    )


def test_no_plan_is_worse_than_the_greedy_rule(tmp_path):
    """Without spare slots, with a program that does nothing, on the file's own terms."""
    recorded, deployment = statistics(iterations=40), Deployment(16, 1, 1, 4)
    placement, choice, held_out = planner.plan(recorded, deployment, in_order_program(tmp_path))
    assert choice.kept.startswith("greedy") and held_out.iterations == range(132, 140)
    greedy = place_greedily(recorded.loads.sum(axis=0), deployment)
    assert np.array_equal(placement.phy2log, greedy.phy2log)
    validated, _, _ = planner.plan(
        recorded, deployment, in_order_program(tmp_path), validate_share=0.5
    )
    early = place_greedily(recorded.loads[:20].sum(axis=0), deployment)
    assert np.array_equal(validated.phy2log, early.phy2log)


def test_layers_without_tokens_keep_experts_in_order(tmp_path):
    """The program sees none of them: many divide by a layer's load."""
    recorded = statistics(layers=(3, 4, 5))
    recorded.loads[:, 1] = 0
    placement, _, _ = planner.plan(
        recorded, Deployment(16, 1, 1, 4), in_order_program(tmp_path), one_replica_per_gpu=True
    )
    assert placement.phy2log[1].tolist() == list(range(16))
    assert placement.phy2log[0].tolist() != list(range(16))


def test_a_plan_by_nodes_gives_way_to_plans_by_nodes_alone():
    """Also where it balances worse than the rule over all experts, and the words say so."""
    recorded, deployment = statistics(layers=(3, 4), seed=5), Deployment(24, 4, 2, 8)
    recorded.loads[:, :, :8] *= 5
    by_nodes = project_file("programs/node_local.py")
    placement, choice, _ = planner.plan(recorded, deployment, by_nodes)
    assert node_locality(placement.phy2log, 16, deployment) == 1
    scores = choice.balancedness
    assert scores[choice.kept] < scores["greedy, recent load"]
    assert "which has each group of experts on one node" in str(choice)
    assert "below greedy, " in str(choice)


def test_a_program_by_nodes_is_measured_against_the_rule_by_nodes():
    """Experts in order are by nodes, and so is what replaces them."""
    load, deployment = np.array([[9, 8, 1, 1, 9, 1, 1, 1]]), Deployment(8, 4, 2, 4)
    rules = greedy_rules(deployment)
    assert list(greedy_rules(Deployment(8, 4, 1, 4))) == ["greedy"]
    plans = {"idle": experts_in_order(1, 8, 8)} | {name: rule(load) for name, rule in rules.items()}
    choice = choose(plans, load[None], deployment)
    assert choice.kept == "greedy by nodes" and choice.balancedness["idle"] < 1

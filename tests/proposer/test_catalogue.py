"""Every part of the catalogue, alone and in the seed program: python -m pytest tests/proposer."""

from __future__ import annotations

import ast
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb.placement import Deployment, validate
from eplb.proposer.mutations import swap_in
from eplb.proposer.parts import CATALOGUE, read_catalogue, read_part
from eplb.proposer.program import Program, names_bound_by

SEED = Path(__file__).parents[2] / "initial.py"
PARTS = read_catalogue()
few = settings(deadline=None, max_examples=25)


def loaded(part):
    """Run a part's file and return its function, with a history of its own."""
    space: dict = {}
    exec(compile(part.text, part.name, "exec"), space)
    return space[part.function.name]


def of(role):
    return [pytest.param(part, id=part.name) for part in PARTS if part.role == role]


def slow_heaviest_pack(row, pack_index, num_packs):
    return max(sum(row[i] for i in range(len(row)) if pack_index[i] == p) for p in range(num_packs))


def slow_counts(row, num_physical):
    """One spare replica after the other to the expert with the hottest replicas."""
    count = [1] * len(row)
    for _ in range(num_physical - len(row)):
        hottest = max(range(len(row)), key=lambda e: row[e] / count[e])
        count[hottest] += 1
    return count


@st.composite
def weights(draw, most=24):
    rows = draw(st.integers(1, 4))
    items = draw(st.integers(1, most))
    values = draw(st.sampled_from([[0], [0, 1], [5], [0, 1, 7, 1000], None]))
    number = st.floats(0, 1e6, width=32) if values is None else st.sampled_from(values)
    row = st.lists(number, min_size=items, max_size=items)
    return draw(st.lists(row, min_size=rows, max_size=rows))


def check_packing(pack_index, rank_in_pack, shape, num_packs):
    """Every seat of every pack is taken exactly once."""
    assert pack_index.dtype == rank_in_pack.dtype == torch.int64
    assert pack_index.shape == rank_in_pack.shape == shape
    capacity = shape[1] // num_packs
    for packs, ranks in zip(pack_index.tolist(), rank_in_pack.tolist()):
        seats = itertools.product(range(num_packs), range(capacity))
        assert sorted(zip(packs, ranks)) == list(seats)


@pytest.mark.parametrize("part", of("packing"))
@few
@given(rows=weights(), data=st.data())
def test_packing_fills_every_seat_once(part, rows, data):
    weight = torch.tensor(rows, dtype=torch.float32)
    items = weight.shape[1]
    num_packs = data.draw(st.sampled_from([n for n in range(1, items + 1) if items % n == 0]))
    check_packing(*loaded(part)(weight, num_packs), weight.shape, num_packs)


def test_swaps_never_make_the_heaviest_pack_heavier_and_often_lighten_it():
    weight = torch.tensor(np.random.default_rng(1).lognormal(size=(40, 36)), dtype=torch.float32)
    plain = read_part(CATALOGUE / "packing" / "lpt_rounds.py")
    swaps = read_part(CATALOGUE / "packing" / "lpt_swaps.py")
    before, _ = loaded(plain)(weight, 4)
    after, _ = loaded(swaps)(weight, 4)
    lighter = 0
    for row, old, new in zip(weight.tolist(), before.tolist(), after.tolist()):
        old_load, new_load = slow_heaviest_pack(row, old, 4), slow_heaviest_pack(row, new, 4)
        assert new_load <= old_load * (1 + 1e-6)
        lighter += new_load < old_load * (1 - 1e-3)
    assert lighter > 20


@few
@given(rows=weights(), data=st.data())
def test_neighbours_go_to_different_packs(rows, data):
    weight = torch.tensor(rows, dtype=torch.float32)
    items = weight.shape[1]
    num_packs = data.draw(st.sampled_from([n for n in range(1, items + 1) if items % n == 0]))
    part = read_part(CATALOGUE / "packing" / "neighbours_apart.py")
    for packs in loaded(part)(weight, num_packs)[0].view(-1, num_packs).tolist():
        assert sorted(packs) == list(range(num_packs))


def test_neighbours_apart_stay_balanced_when_groups_rise_together():
    """Planned for even groups, met by groups that are up to twice as hot as foreseen."""
    rng = np.random.default_rng(4)
    planned = rng.lognormal(sigma=0.5, size=(40, 6, 8))
    met = planned * rng.uniform(0.5, 2, size=(40, 6, 1))
    heaviest = []
    for name in ("neighbours_apart", "lpt_rounds", "lpt_swaps"):
        part = read_part(CATALOGUE / "packing" / f"{name}.py")
        packs, _ = loaded(part)(torch.tensor(planned.reshape(40, 48)), 8)
        load = torch.zeros(40, 8, dtype=torch.float64)
        load.scatter_add_(1, packs, torch.from_numpy(met.reshape(40, 48)))
        heaviest.append(float(load.amax(dim=1).mean()))
    apart, plain, swapped = heaviest
    assert apart < 0.95 * min(plain, swapped)


@pytest.mark.parametrize("name", ["lpt_rounds", "lpt_swaps"])
def test_packing_beats_dealing_in_turn(name):
    weight = torch.tensor(np.random.default_rng(2).lognormal(size=(30, 24)), dtype=torch.float32)
    heaviest = {}
    for part in (read_part(CATALOGUE / "packing" / f"{n}.py") for n in (name, "snake")):
        packs, _ = loaded(part)(weight, 4)
        loads = zip(weight.tolist(), packs.tolist())
        heaviest[part.name] = sum(slow_heaviest_pack(row, pack, 4) for row, pack in loads)
    assert heaviest[name] < heaviest["snake"]


@pytest.mark.parametrize("part", of("replication"))
@few
@given(rows=weights(), spare=st.integers(0, 40))
def test_replication_gives_every_expert_a_replica_and_fills_the_slots(part, rows, spare):
    weight = torch.tensor(rows, dtype=torch.float32)
    experts = weight.shape[1]
    phy2log, logcnt = loaded(part)(weight, experts + spare)
    assert phy2log.dtype == logcnt.dtype == torch.int64
    assert phy2log.shape == (len(rows), experts + spare) and logcnt.shape == weight.shape
    for slots, counts in zip(phy2log.tolist(), logcnt.tolist()):
        assert slots[:experts] == list(range(experts))
        assert slots[experts:] == sorted(slots[experts:])
        assert [slots.count(expert) for expert in range(experts)] == counts


@pytest.mark.parametrize("name", ["highest_averages", "water_filling"])
@few
@given(rows=weights(), spare=st.integers(0, 40))
def test_exact_replication_is_as_good_as_one_by_one(name, rows, spare):
    """Ties may fall otherwise, so the hottest replica is compared and not the counts."""
    weight = torch.tensor(rows, dtype=torch.float32)
    num_physical = weight.shape[1] + spare
    _, logcnt = loaded(read_part(CATALOGUE / "replication" / f"{name}.py"))(weight, num_physical)
    for row, counts in zip(weight.tolist(), logcnt.tolist()):
        hottest = max(load / count for load, count in zip(row, counts))
        greedy = slow_counts(row, num_physical)
        best = max(load / count for load, count in zip(row, greedy))
        assert hottest == pytest.approx(best, rel=1e-3, abs=1e-30)


def test_largest_remainder_follows_the_quotas():
    part = read_part(CATALOGUE / "replication" / "largest_remainder.py")
    _, logcnt = loaded(part)(torch.tensor([[60.0, 30.0, 10.0]]), 10)
    assert logcnt.tolist() == [[6, 3, 1]]


def test_tail_aware_replication_gives_the_middle_more_than_the_mean_alone_would():
    """A margin that grows slower than the load moves replicas from the hottest to the warm."""
    row = [100.0] + [30.0] * 4 + [1.0] * 3
    _, logcnt = loaded(read_part(CATALOGUE / "replication" / "tail_aware.py"))(
        torch.tensor([row]), 40
    )
    assert logcnt[0, 0] < slow_counts(row, 40)[0]


@pytest.mark.parametrize("part", of("assembly"))
@few
@given(rows=weights(most=12), spare=st.integers(0, 12), data=st.data())
def test_assembly_lists_every_slot_under_its_expert(part, rows, spare, data):
    experts = len(rows[0])
    slots = [
        data.draw(st.permutations([*range(experts), *[i % experts for i in range(spare)]]))
        for _ in rows
    ]
    counts = [[row.count(expert) for expert in range(experts)] for row in slots]
    log2phy = loaded(part)(torch.tensor(slots), torch.tensor(counts))
    assert log2phy.dtype == torch.int64
    for row, listed in zip(slots, log2phy.tolist()):
        for expert in range(experts):
            held = [slot for slot in range(len(row)) if row[slot] == expert]
            assert sorted(listed[expert][: len(held)]) == held
            assert set(listed[expert][len(held) :]) <= {-1}


@pytest.mark.parametrize("part", of("forecasting"))
def test_forecast_of_a_steady_load_is_that_load(part):
    forecast = loaded(part)
    weight = torch.tensor([[1.0, 2.0, 3.0], [5.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    for _ in range(4):
        expected = forecast(weight)
    assert expected.shape == weight.shape
    assert torch.allclose(expected, weight, atol=1e-5)


def errors(windows):
    """Squared errors of `chosen_decay` and of expecting the last window again, each window's."""
    forecast = loaded(read_part(CATALOGUE / "forecasting" / "chosen_decay.py"))
    expected = torch.stack([forecast(window) for window in windows[:-1]])
    missed = [
        (each - windows[1:]).square().flatten(1).sum(dim=1) for each in (expected, windows[:-1])
    ]
    return missed[0], missed[1]


def test_decay_is_long_where_windows_are_noise_and_none_where_loads_drift():
    random = np.random.default_rng(5)
    popularity = random.lognormal(size=(2, 40))
    noise = torch.tensor(popularity * random.lognormal(sigma=0.3, size=(20, 2, 40)))
    chosen, last = errors(noise / noise.sum(dim=-1, keepdim=True))
    assert chosen[10:].sum() < 0.7 * last[10:].sum()
    drift = torch.tensor(popularity * np.exp(random.normal(0, 0.2, (20, 2, 40)).cumsum(axis=0)))
    chosen, last = errors(drift / drift.sum(dim=-1, keepdim=True))
    assert chosen.sum() < 1.05 * last.sum()


def test_decay_forgets_the_old_regime():
    random = np.random.default_rng(6)
    popularity = random.lognormal(sigma=1.5, size=(2, 1, 2, 40)).repeat(10, axis=1)
    loads = torch.tensor(popularity * random.lognormal(sigma=0.3, size=popularity.shape))
    windows = (loads / loads.sum(dim=-1, keepdim=True)).flatten(0, 1)
    chosen, last = errors(windows)
    # In window 10 the regime changes; expecting more of the old one would err more than the last.
    assert chosen[10] == pytest.approx(float(last[10]))
    assert chosen[11:].sum() < 0.8 * last[11:].sum()


def test_no_part_is_a_finished_answer():
    """Parts play one role each. The policy alone calls other roles, and implements none of them."""
    roles = {part.function.name for part in PARTS}
    assert roles == {
        "balanced_packing",
        "replicate_experts",
        "slots_by_expert",
        "forecast",
        "rebalance_experts_hierarchical",
    }
    for part in PARTS:
        assert part.calls() <= roles and bool(part.calls()) == (part.role == "policy")


def test_names_of_helpers_are_unique_and_imports_are_torch_numpy_or_standard():
    helpers = [name for part in PARTS for node in part.helpers for name in names_bound_by(node)]
    assert len(helpers) == len(set(helpers))
    allowed = {"torch", "numpy", *sys.stdlib_module_names}
    for part in PARTS:
        for node in part.imports:
            assert isinstance(node, ast.Import) and {a.name for a in node.names} <= allowed


def run_text(text):
    space: dict = {"__name__": "candidate"}
    exec(compile(text, "candidate", "exec"), space)
    return space["run_eplb"]


ROLES = ("packing", "replication", "assembly")
COMBINATIONS = list(itertools.product(*([p for p in PARTS if p.role == r] for r in ROLES)))


@pytest.mark.parametrize("policy", ["hierarchical", "place_globally"])
@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda c: "-".join(p.name for p in c))
def test_every_combination_in_the_seed_is_valid_on_every_shape(combination, policy):
    program = Program(SEED.read_text())
    for name, part in zip(
        ("balanced_packing", "replicate_experts", "slots_by_expert"), combination
    ):
        program = swap_in(program, name, part).program
    if policy == "place_globally":
        part = read_part(CATALOGUE / "policy" / "place_globally.py")
        program = swap_in(program, "rebalance_experts_hierarchical", part).program
    run = run_text(program.text)
    rng = np.random.default_rng(3)
    shapes = [(2, 12, 16, 4, 2, 8), (3, 8, 8, 8, 4, 8), (1, 6, 18, 3, 1, 6), (2, 12, 14, 3, 2, 2)]
    shapes += [(2, 6, 6, 2, 1, 1), (2, 8, 24, 4, 2, 24), (1, 1, 4, 1, 1, 4), (4, 16, 64, 8, 4, 16)]
    for layers, experts, *deployment in shapes:
        for load in (rng.lognormal(size=(layers, experts)) * 100, np.zeros((layers, experts))):
            maps = run(torch.tensor(load), *deployment)
            arrays = [tensor.numpy() for tensor in maps]
            validate(
                *arrays,
                num_layers=layers,
                num_experts=experts,
                deployment=Deployment(*deployment),
            )

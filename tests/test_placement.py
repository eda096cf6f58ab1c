"""The deployment's rules and the validator: `pytest tests/test_placement.py`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb.common import UserError
from eplb.placement import (
    Deployment,
    ExpertPlacement,
    InvalidPlacement,
    node_locality,
    validate,
)
from tests.strategies import deployments, random_phy2log, seeds

SMALL = Deployment(num_replicas=8, num_groups=2, num_nodes=2, num_gpus=4)
PHY2LOG = np.array([[0, 1, 2, 0, 3, 4, 5, 4], [0, 1, 2, 2, 3, 4, 5, 5]])


def answer(phy2log=PHY2LOG, experts=6):
    placement = ExpertPlacement.from_phy2log(phy2log, experts)
    return {
        "phy2log": placement.phy2log.copy(),
        "log2phy": placement.log2phy.copy(),
        "logcnt": placement.logcnt.copy(),
    }


def check(maps, require_locality=False):
    return validate(
        **maps,
        num_layers=2,
        num_experts=6,
        deployment=SMALL,
        require_locality=require_locality,
    )


def slow_slots(phy2log, experts):
    return [
        [[slot for slot, e in enumerate(row) if e == expert] for expert in range(experts)]
        for row in phy2log.tolist()
    ]


@settings(deadline=None, max_examples=60)
@given(deployments(), st.integers(1, 3), seeds)
def test_maps_are_those_of_a_slow_reimplementation(drawn, layers, seed):
    deployment, experts = drawn
    phy2log = random_phy2log(seed, layers, deployment.num_replicas, experts)
    placement = ExpertPlacement.from_phy2log(phy2log, experts)
    slots = slow_slots(phy2log, experts)
    for layer in range(layers):
        for expert in range(experts):
            mine = slots[layer][expert]
            row = placement.log2phy[layer, expert].tolist()
            assert placement.logcnt[layer, expert] == len(mine)
            assert row == mine + [-1] * (len(row) - len(mine))
    assert placement.log2phy.shape[2] == max(len(s) for row in slots for s in row)


@settings(deadline=None, max_examples=60)
@given(deployments(), st.integers(1, 3), seeds, st.integers(0, 2))
def test_right_answers_in_any_order_and_width_are_accepted(drawn, layers, seed, wider):
    deployment, experts = drawn
    rng = np.random.default_rng(seed)
    phy2log = random_phy2log(seed, layers, deployment.num_replicas, experts)
    slots = slow_slots(phy2log, experts)
    width = max(len(s) for row in slots for s in row) + wider
    log2phy = np.full((layers, experts, width), -1)
    for layer in range(layers):
        for expert, mine in enumerate(slots[layer]):
            log2phy[layer, expert, : len(mine)] = rng.permutation(mine)
    logcnt = np.array([[len(s) for s in row] for row in slots])
    placement = validate(
        phy2log, log2phy, logcnt, num_layers=layers, num_experts=experts, deployment=deployment
    )
    assert (placement.phy2log == phy2log).all()


@settings(deadline=None, max_examples=150)
@given(seeds, st.sampled_from(["phy2log", "log2phy", "logcnt"]), st.integers(-3, 10))
def test_any_change_of_one_cell_is_refused(seed, name, value):
    """With the other two maps as they were, no single cell has two right values."""
    maps = answer(random_phy2log(seed, 2, 8, 6))
    cell = tuple(np.random.default_rng(seed).integers(0, maps[name].shape))
    if maps[name][cell] == value:
        check(maps)
        return
    maps[name][cell] = value
    with pytest.raises(InvalidPlacement):
        check(maps)


def changed(name, cell, value):
    maps = answer()
    maps[name][cell] = value
    return maps


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (
            {**answer(), "phy2log": PHY2LOG.astype(np.int32)},
            "phy2log has dtype int32; it must be int64",
        ),
        ({**answer(), "logcnt": np.ones((2, 6))}, "logcnt has dtype float64; it must be int64"),
        (
            {**answer(), "phy2log": PHY2LOG[:, :7]},
            "phy2log has shape [2, 7]; it must be [2, 8]",
        ),
        (
            {**answer(), "logcnt": np.ones(6, dtype=np.int64)},
            "logcnt has shape [6]; it must be [2, 6]",
        ),
        (
            {**answer(), "log2phy": np.zeros((2, 5, 2), dtype=np.int64)},
            "log2phy has shape [2, 5, 2]; it must be [2, 6, X]",
        ),
        (
            {**answer(), "log2phy": np.zeros((0, 83711234, 2), dtype=np.int64)},
            "log2phy has shape [0, out of range, 2]; it must be [2, 6, X]",
        ),
        (
            changed("phy2log", (1, 3), 6),
            "phy2log: layer 1, slot 3 holds expert 6; experts are 0 to 5",
        ),
        (
            changed("phy2log", (1, 3), 83711234),
            "phy2log: layer 1, slot 3 holds expert out of range; experts are 0 to 5",
        ),
        (
            changed("phy2log", (0, 2), -1),
            "phy2log: layer 0, slot 2 holds expert -1; experts are 0 to 5",
        ),
        (changed("phy2log", (0, 2), 0), "phy2log: layer 0 has no slot for expert 2"),
        (
            changed("logcnt", (1, 5), 3),
            "logcnt: layer 1, expert 5 claims 3 replicas; phy2log has 2",
        ),
        (
            {**answer(), "log2phy": answer()["log2phy"][:, :, :1]},
            "log2phy: layer 0, expert 0 has 2 slots in phy2log; log2phy has room for 1",
        ),
        (
            changed("log2phy", (0, 1, 1), 3),
            (
                "log2phy: layer 0, expert 1, column 1 holds 3; "
                "after the expert's 1 slots it must be -1"
            ),
        ),
        (
            changed("log2phy", (1, 2, 0), 7),
            "log2phy: layer 1, expert 2 lists slots [3, 7]; phy2log has it in [2, 3]",
        ),
        (
            changed("log2phy", (0, 0, 1), 0),
            "log2phy: layer 0, expert 0 lists slots [0, 0]; phy2log has it in [0, 3]",
        ),
        (
            changed("log2phy", (0, 0, 1), -1),
            "log2phy: layer 0, expert 0 lists slots [-1, 0]; phy2log has it in [0, 3]",
        ),
    ],
)
def test_messages_name_the_offender(maps, message):
    with pytest.raises(InvalidPlacement) as refused:
        check(maps)
    assert str(refused.value) == message


@pytest.mark.parametrize(("column", "listed"), [(0, "[1, 2"), (9, "[…, 10"), (19, "[…, 14")])
def test_of_many_slots_a_message_lists_some_with_the_wrong_one(column, listed):
    """A message must not carry all that a program would like to say."""
    deployment = Deployment(num_replicas=21, num_groups=1, num_nodes=1, num_gpus=1)
    truth = ExpertPlacement.from_phy2log(np.array([[0] * 20 + [1]]), 2)
    log2phy = truth.log2phy.copy()
    log2phy[0, 0, column] = 20
    with pytest.raises(InvalidPlacement) as refused:
        validate(
            truth.phy2log,
            log2phy,
            truth.logcnt,
            num_layers=1,
            num_experts=2,
            deployment=deployment,
        )
    said = str(refused.value).split("lists slots ")[1]
    assert said.startswith(listed) and said.count(",") <= 16


def test_locality_is_checked_where_it_is_required():
    spread = answer(np.array([PHY2LOG[0], [0, 1, 2, 5, 3, 4, 5, 5]]))
    check(spread)
    with pytest.raises(InvalidPlacement) as refused:
        check(spread, require_locality=True)
    assert str(refused.value) == (
        "locality: layer 1, group 1 is spread over nodes [0, 1]; every group must live on one node"
    )
    check(answer(), require_locality=True)


@settings(deadline=None, max_examples=60)
@given(deployments(), st.integers(1, 3), seeds)
def test_node_locality_is_that_of_a_slow_reimplementation(drawn, layers, seed):
    deployment, experts = drawn
    phy2log = random_phy2log(seed, layers, deployment.num_replicas, experts)
    local = []
    for row in phy2log:
        for group in range(deployment.num_groups):
            size = experts // deployment.num_groups
            members = range(group * size, (group + 1) * size)
            nodes = {
                slot * deployment.num_nodes // deployment.num_replicas
                for slot, expert in enumerate(row)
                if expert in members
            }
            local.append(len(nodes) == 1)
    assert node_locality(phy2log, experts, deployment) == pytest.approx(np.mean(local))


@settings(deadline=None, max_examples=60)
@given(deployments(), seeds)
def test_holders_are_those_of_a_slow_reimplementation(drawn, seed):
    deployment, experts = drawn
    phy2log = random_phy2log(seed, 1, deployment.num_replicas, experts)
    held = ExpertPlacement.from_phy2log(phy2log, experts).holders(deployment.num_gpus)
    for gpu in range(deployment.num_gpus):
        slots = deployment.slots_per_gpu
        on_gpu = set(phy2log[0, gpu * slots : (gpu + 1) * slots].tolist())
        assert set(np.flatnonzero(held[0, :, gpu]).tolist()) == on_gpu


@settings(deadline=None, max_examples=60)
@given(deployments())
def test_good_deployments_pass(drawn):
    deployment, experts = drawn
    deployment.check(experts)


@pytest.mark.parametrize(
    ("deployment", "message"),
    [
        (Deployment(num_gpus=0), "num_gpus is 0; it must be at least 1"),
        (Deployment(num_replicas=10**20), f"num_replicas {10**20} is more than 65536 slots"),
        (
            Deployment(num_replicas=250),
            (
                "num_replicas 250 is fewer than the 256 experts, and every expert needs a slot; "
                "the nearest value that works is 256"
            ),
        ),
        (
            Deployment(num_replicas=300),
            (
                "num_replicas 300 is not a multiple of num_gpus 32; "
                "the nearest value that works is 288 or 320"
            ),
        ),
        (
            Deployment(num_replicas=270),
            (
                "num_replicas 270 is not a multiple of num_gpus 32; "
                "the nearest value that works is 256 or 288"
            ),
        ),
        (
            Deployment(num_nodes=5),
            "num_gpus 32 is not a multiple of num_nodes 5; "
            "the nearest value that works is 30 or 35",
        ),
        (
            Deployment(num_groups=7),
            "num_groups 7 does not divide the 256 experts; the nearest value that works is 8",
        ),
    ],
)
def test_rules_of_a_deployment_name_the_nearest_value(deployment, message):
    with pytest.raises(UserError) as refused:
        deployment.check(256)
    assert str(refused.value) == message

"""The vLLM policy against the interface of the released package, which need not be installed.

python -m pytest tests/engines/test_vllm.py -q
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import logging
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from eplb.common import UserError, project_file
from eplb.engines import vllm
from eplb.loads import balancedness, gpu_loads
from eplb.placement import Deployment, ExpertPlacement, InvalidPlacement, node_locality
from eplb.reference import place
from tests.strategies import random_loads, random_phy2log, seeds

# rebalance_experts of AbstractEplbPolicy in vllm 0.33.0.
PARAMETERS = [
    "weight",
    "num_replicas",
    "num_groups",
    "num_nodes",
    "num_ranks",
    "old_global_expert_indices",
]


class Own:
    """In the place of vLLM's default policy: experts in order, in a fixed number of calls."""

    @classmethod
    def rebalance_experts(cls, weight, num_replicas, num_groups, num_nodes, num_ranks, old=None):
        row = torch.arange(num_replicas) % weight.shape[1]
        return row.expand(len(weight), -1).clone()


def in_order(layers: int, experts: int, slots: int) -> torch.Tensor:
    return Own.rebalance_experts(torch.zeros(layers, experts), slots, 1, 1, 1)


def location_file(path: Path, phy2log: np.ndarray) -> Path:
    path.write_text(json.dumps({"physical_to_logical_map": phy2log.tolist()}))
    return path


@pytest.fixture(scope="module")
def policy():
    return vllm.policy_of(Own, vllm.Program(project_file("initial.py")))


def test_signature_is_that_of_the_release(policy):
    signature = inspect.signature(policy.rebalance_experts)
    assert list(signature.parameters) == PARAMETERS
    assert signature.parameters[PARAMETERS[-1]].default is None


def test_signature_is_that_of_the_installed_vllm():
    """Reads the file itself: importing vllm takes half a minute."""
    spec = importlib.util.find_spec("vllm")
    if spec is None:
        pytest.skip("vllm is not installed")
    path = Path(spec.origin).parent / "distributed/eplb/policy/abstract.py"
    spec = importlib.util.spec_from_file_location("vllm_abstract_policy", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    theirs = module.AbstractEplbPolicy
    assert list(inspect.signature(theirs.rebalance_experts).parameters) == PARAMETERS
    ours = vllm.policy_of(theirs, vllm.Program(project_file("initial.py")))
    assert not inspect.isabstract(ours)
    assert ours.rebalance_experts(torch.ones(2, 8), 8, 1, 1, 4).shape == (2, 8)


def test_answers_are_placements_and_experts_that_stay_keep_their_slots(policy):
    draws = torch.Generator().manual_seed(0)
    load = torch.randint(1, 1000, (3, 16), generator=draws)
    first = policy.rebalance_experts(load, 24, 4, 2, 8)
    assert first.dtype == torch.int64 and first.shape == (3, 24)
    assert all(set(row.tolist()) == set(range(16)) for row in first)
    shuffled = first.view(3, 8, 3).flip(-1).reshape(3, 24)
    assert torch.equal(policy.rebalance_experts(load, 24, 4, 2, 8, shuffled), shuffled)
    # After a change of ranks there is nothing to keep.
    assert torch.equal(policy.rebalance_experts(load, 24, 4, 2, 8, shuffled[:, :16]), first)


def balance(phy2log: np.ndarray, load: np.ndarray) -> float:
    """On four GPUs."""
    placement = ExpertPlacement.from_phy2log(phy2log, load.shape[1])
    return balancedness(gpu_loads(load, placement, 4))


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_no_plan_is_worse_than_the_reference_on_the_window(seed):
    """A program that leaves experts in order gets the reference's plan; a better one its own."""
    load = random_loads(seed, 3, 16)
    program = vllm.Program(project_file("programs/balanced.py"))
    planned = vllm.policy_of(Own, program).rebalance_experts(torch.from_numpy(load), 24, 1, 1, 4)
    assert balance(planned.numpy(), load) >= balance(place(load, 24, 4), load) - 1e-12


def test_a_plan_by_nodes_is_not_given_up_for_balance():
    """The greedy rule would balance better, with experts of a group on both nodes."""
    load = np.array([[90, 80, 70, 60, 1, 1, 1, 1]])
    deployment = Deployment(12, 4, 2, 4)
    planned = vllm.Program(project_file("initial.py")).plan(load, deployment)
    greedy = place(load, 12, 4)
    assert node_locality(planned, 8, deployment) == 1 > node_locality(greedy, 8, deployment)
    assert balance(planned, load) < balance(greedy, load)


def test_a_plan_of_experts_in_order_gives_way_and_the_log_says_so(tmp_path, caplog):
    path = tmp_path / "idle.py"
    path.write_text(
        "import torch\n"
        "def rebalance_experts(w, slots, *sizes):\n"
        "    row = torch.arange(slots) % w.shape[1]\n"
        "    slots_of = torch.arange(slots).view(-1, w.shape[1]).T\n"
        "    count = torch.full(w.shape, slots // w.shape[1])\n"
        "    return row.expand(len(w), -1), slots_of.expand(len(w), -1, -1), count\n"
    )
    load = np.array([[70, 10, 10, 10]])
    caplog.set_level(logging.INFO, "vllm.plugins.eplb")
    planned = vllm.Program(path).plan(load, Deployment(8, 1, 1, 4))
    assert planned.tolist() == place(load, 8, 4).tolist()
    assert "kept greedy" in caplog.text and "above idle.py" in caplog.text


def test_each_model_has_a_program_of_its_own_that_sees_no_profiling_call(tmp_path):
    """A draft model and a profiling call would otherwise stand in a program's history."""
    path = tmp_path / "remembers.py"
    log = tmp_path / "log"
    path.write_text(
        "import importlib.util, torch\n"
        "seen = []\n"
        "def run_eplb(w, *sizes):\n"
        "    seen.append(tuple(w.shape))\n"
        f"    open({str(log)!r}, 'a').write(f'{{seen}}\\n')\n"
        "    row = torch.arange(w.shape[1]).expand(len(w), -1)\n"
        "    return row, row.unsqueeze(-1), torch.ones_like(row)\n"
    )
    program = vllm.Program(path)
    target, draft = np.array([[1, 2], [3, 4]]), np.array([[5, 6]])
    for load in (target * 0, draft * 0, target, draft, target):
        program.plan(load, Deployment(2, 1, 1, 2))
    seen = [eval(line) for line in log.read_text().splitlines()]
    assert seen[2:] == [[(2, 2)], [(1, 2)], [(2, 2), (2, 2)]]


def test_a_wrong_answer_is_refused(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(
        "import torch\ndef run_eplb(w, *sizes):\n    return (torch.zeros(1, 8).long(),) * 3"
    )
    wrong = vllm.policy_of(Own, vllm.Program(path))
    with pytest.raises(InvalidPlacement, match="logcnt"):
        wrong.rebalance_experts(torch.ones(1, 4), 8, 1, 1, 2)
    path.write_text("x = 1")
    with pytest.raises(UserError, match="defines no run_eplb"):
        vllm.Program(path)
    with pytest.raises(UserError, match="is not a file"):
        vllm.Program(tmp_path / "nowhere.py")


def test_placements_go_to_the_model_that_they_fit(tmp_path, caplog):
    caplog.set_level(logging.INFO, "vllm.plugins.eplb")
    files = [
        location_file(tmp_path / f"{layers}.json", random_phy2log(layers, layers, 12, 8))
        for layers in (3, 1)
    ]
    both = vllm.policy_of(Own, vllm.Placements(files))
    for layers in (3, 1, 3):
        answer = both.rebalance_experts(torch.zeros(layers, 8), 12, 1, 1, 4)
        assert answer.tolist() == random_phy2log(layers, layers, 12, 8).tolist()
    assert len(caplog.records) == 2 and not [r for r in caplog.records if r.levelname == "ERROR"]


def test_a_placement_keeps_slots_within_a_rank(tmp_path):
    phy2log = random_phy2log(0, 2, 12, 8)
    path = location_file(tmp_path / "plan.json", phy2log)
    old = np.roll(phy2log.reshape(2, 4, 3), 1, axis=2).reshape(2, 12)
    answer = vllm.policy_of(Own, vllm.Placements([path])).rebalance_experts(
        torch.ones(2, 8), 12, 1, 1, 4, torch.from_numpy(old)
    )
    assert answer.tolist() == old.tolist()


@pytest.mark.parametrize(
    ("layers", "experts", "slots", "words"),
    [
        (2, 9, 12, "is for 8 experts, the model has 9"),
        (2, 8, 16, "is for 12 slots, the model has 16"),
        (1, 8, 12, "places 2 layers, the model has 1"),
        (4, 8, 12, "places 2 layers, the model has 4"),
    ],
)
def test_a_misfit_is_logged_once_and_left_to_vllm(tmp_path, caplog, layers, experts, slots, words):
    path = location_file(tmp_path / "plan.json", random_phy2log(0, 2, 12, 8))
    chosen = vllm.policy_of(Own, vllm.Placements([path]))
    for _ in range(2):
        answer = chosen.rebalance_experts(torch.zeros(layers, experts), slots, 1, 1, 4)
        assert torch.equal(answer, in_order(layers, experts, slots))
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1 and words in errors[0] and str(path) in errors[0]
    assert f"Plan for {layers} layers, {experts} experts, {slots} slots and 4 ranks" in errors[0]


def test_other_ranks_than_the_file_tells_do_not_fit(tmp_path, caplog):
    device = [{"device_id": d, "device_expert": [2 * d, 2 * d + 1]} for d in range(2)]
    layer = {"layer_id": 0, "device_count": 2, "device_list": device}
    path = tmp_path / "expert_map.json"
    path.write_text(json.dumps({"moe_layer_count": 1, "layer_list": [layer]}))
    chosen = vllm.policy_of(Own, vllm.Placements([path]))
    chosen.rebalance_experts(torch.zeros(1, 4), 4, 1, 1, 4)
    assert "is for 2 ranks, the model has 4" in caplog.text


def test_rows_that_hold_the_place_of_dense_layers_are_left_out(tmp_path):
    """SGLang numbers all layers of the model, vLLM those with experts."""
    moe = random_phy2log(0, 3, 12, 8)
    dense = in_order(2, 8, 12).numpy()
    path = location_file(tmp_path / "all.json", np.concatenate([dense[:1], moe, dense[1:]]))
    chosen = vllm.policy_of(Own, vllm.Placements([path]))
    assert chosen.rebalance_experts(torch.zeros(3, 8), 12, 1, 1, 4).tolist() == moe.tolist()


@pytest.fixture
def policies(monkeypatch, ranks):
    """vLLM's policies by name, as `register` finds them; no variable set."""
    module = ModuleType("vllm.distributed.eplb.policy")
    module.EPLB_POLICIES = {"default": Own}
    monkeypatch.setitem(sys.modules, "vllm.distributed.eplb", ModuleType("vllm.distributed.eplb"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in (vllm.PROGRAM, vllm.PLACEMENT, vllm.RECORD):
        monkeypatch.delenv(name, raising=False)
    return module.EPLB_POLICIES


def test_register_replaces_the_default_policy_only_when_asked_and_once(policies, monkeypatch):
    vllm.register()
    assert policies == {"default": Own}
    monkeypatch.setenv(vllm.PROGRAM, str(project_file("initial.py")))
    vllm.register()
    chosen = policies["default"]
    assert issubclass(chosen, Own)
    answer = chosen.rebalance_experts(torch.ones(1, 4), 4, 1, 1, 2)
    assert np.array_equal(answer.sort().values[0], range(4))
    vllm.register()
    assert policies["default"] is chosen


def test_register_refuses_what_cannot_work(policies, monkeypatch, tmp_path):
    monkeypatch.setenv(vllm.PLACEMENT, str(tmp_path / "nowhere.json"))
    with pytest.raises(UserError, match="nowhere.json does not exist"):
        vllm.register()
    monkeypatch.setenv(vllm.PROGRAM, str(project_file("initial.py")))
    with pytest.raises(UserError, match="EPLB_VLLM_PROGRAM and EPLB_VLLM_PLACEMENT"):
        vllm.register()
    monkeypatch.delenv(vllm.PLACEMENT)
    monkeypatch.setenv(vllm.RECORD, str(project_file("initial.py")))
    with pytest.raises(UserError, match="initial.py is a file; name a folder"):
        vllm.register()
    assert policies == {"default": Own}


@pytest.mark.parametrize("planner", [None, vllm.PROGRAM, vllm.PLACEMENT])
def test_recording_goes_with_each_planner_and_with_none(policies, monkeypatch, tmp_path, planner):
    plans = [random_phy2log(layers, layers, 12, 8) for layers in (3, 1)]
    files = [location_file(tmp_path / f"{len(plan)}.json", plan) for plan in plans]
    values = {
        vllm.PROGRAM: str(project_file("initial.py")),
        vllm.PLACEMENT: os.pathsep.join(map(str, files)),
    }
    if planner:
        monkeypatch.setenv(planner, values[planner])
    monkeypatch.setenv(vllm.RECORD, str(tmp_path / "record"))
    vllm.register()
    chosen = policies["default"]
    for seed, layers in ((0, 3), (1, 1)):
        load = torch.from_numpy(random_loads(seed, layers, 8))
        answer = chosen.rebalance_experts(load, 12, 1, 1, 4)
        if planner is None:
            assert torch.equal(answer, in_order(layers, 8, 12))
        if planner == vllm.PLACEMENT:
            assert answer.tolist() == plans[seed].tolist()
    names = [path.name for path in sorted((tmp_path / "record").iterdir())]
    assert names == ["load_1x8.jsonl", "load_3x8.jsonl"]

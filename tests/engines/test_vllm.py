"""The vLLM policy: its signature, its answers, and the released package where it is installed."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from eplb.common import UserError, project_file
from eplb.engines import vllm
from eplb.placement import InvalidPlacement
from tests.strategies import random_phy2log, seeds

# rebalance_experts of AbstractEplbPolicy in vllm 0.33.0.
PARAMETERS = [
    "weight",
    "num_replicas",
    "num_groups",
    "num_nodes",
    "num_ranks",
    "old_global_expert_indices",
]


@pytest.fixture(scope="module")
def policy():
    return vllm.policy_of(project_file("initial.py"))


def test_signature_is_that_of_the_release(policy):
    signature = inspect.signature(policy.rebalance_experts)
    assert list(signature.parameters) == PARAMETERS
    assert signature.parameters[PARAMETERS[-1]].default is None


def test_signature_is_that_of_the_installed_vllm(policy):
    """Reads the file itself: importing vllm needs what only its servers have."""
    spec = importlib.util.find_spec("vllm")
    if spec is None:
        pytest.skip("vllm is not installed")
    path = Path(spec.origin).parent / "distributed/eplb/policy/abstract.py"
    spec = importlib.util.spec_from_file_location("vllm_abstract_policy", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    theirs = module.AbstractEplbPolicy
    assert list(inspect.signature(theirs.rebalance_experts).parameters) == PARAMETERS
    ours = type("Both", (policy, theirs), {})
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


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_kept_slots_hold_the_same_experts_and_as_many_as_can_stay(seed):
    new = random_phy2log(seed, 3, 20, 9)
    old = random_phy2log(seed + 1, 3, 20, 9)
    kept = vllm.keep_slots(new, old, 4)
    for row in range(3):
        for gpu in range(0, 20, 5):
            slots = [block[row, gpu : gpu + 5].tolist() for block in (new, old, kept)]
            counts = [Counter(block) for block in slots]
            assert counts[2] == counts[0]
            in_place = sum(before == after for before, after in zip(*slots[1:], strict=True))
            assert in_place == (counts[0] & counts[1]).total()


def test_a_wrong_answer_is_refused(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(
        "import torch\ndef run_eplb(w, *sizes):\n    return (torch.zeros(1, 8).long(),) * 3"
    )
    with pytest.raises(InvalidPlacement, match="logcnt"):
        vllm.policy_of(path).rebalance_experts(torch.ones(1, 4), 8, 1, 1, 2)
    path.write_text("x = 1")
    with pytest.raises(UserError, match="defines no run_eplb"):
        vllm.policy_of(path)
    with pytest.raises(UserError, match="is not a file"):
        vllm.policy_of(tmp_path / "nowhere.py")


def test_register_replaces_the_default_policy_only_when_asked(monkeypatch):
    policies = ModuleType("vllm.distributed.eplb.policy")
    policies.EPLB_POLICIES = {"default": object}
    policies.AbstractEplbPolicy = type("AbstractEplbPolicy", (), {})
    for name in ("vllm", "vllm.distributed", "vllm.distributed.eplb"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, policies.__name__, policies)
    monkeypatch.delenv(vllm.VARIABLE, raising=False)
    vllm.register()
    assert policies.EPLB_POLICIES == {"default": object}
    monkeypatch.setenv(vllm.VARIABLE, str(project_file("initial.py")))
    vllm.register()
    chosen = policies.EPLB_POLICIES["default"]
    assert issubclass(chosen, policies.AbstractEplbPolicy)
    assert np.array_equal(
        chosen.rebalance_experts(torch.ones(1, 4), 4, 1, 1, 2).sort().values[0], range(4)
    )

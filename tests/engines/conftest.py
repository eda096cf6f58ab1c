"""What the tests of the vLLM plug-in share: a stand-in for the parts of vLLM that it imports."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> dict[str, SimpleNamespace]:
    """This process's place in vLLM's groups, the first at first."""
    groups = {name: SimpleNamespace(rank_in_group=0) for name in ("ep", "pp")}
    state = ModuleType("vllm.distributed.parallel_state")
    state.get_ep_group, state.get_pp_group = (lambda: groups["ep"]), (lambda: groups["pp"])
    for name in ("vllm", "vllm.distributed"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, state.__name__, state)
    return groups

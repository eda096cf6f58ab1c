"""Fetching published balancers, on stand-ins with the same files and interfaces; no network.

`pytest tests/bench/test_published.py`
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eplb.bench.published.__main__ import assemble, main
from eplb.bench.published.catalogue import PUBLISHED
from eplb.bench.published.releases import INDEX_VARIABLE
from eplb.common import UserError
from eplb.placement import Deployment, ExpertPlacement, validate
from eplb.sandbox.runner import Refused, Sandbox
from tests.bench.package_index import MEMBERS, VLLM, Index, archive
from tests.strategies import deployments, random_loads, random_phy2log, seeds


@pytest.fixture
def index(monkeypatch):
    """An index with a stand-in for every release, and the catalogue pinned to those."""
    index = Index()
    monkeypatch.setenv(INDEX_VARIABLE, index.url + "/")
    for release in {published.release for published in PUBLISHED.values()}:
        names = [name for name, each in PUBLISHED.items() if each.release == release]
        content = archive(
            release.filename, {PUBLISHED[name].member: MEMBERS[name] for name in names}
        )
        index.offer(release.package, release.filename, content)
        pin = replace(release, sha256=hashlib.sha256(content).hexdigest())
        for name in names:
            monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], release=pin))
    yield index
    index.server.shutdown()
    index.server.server_close()


def load(name: str, tmp_path: Path):
    """The program made of the stand-in for ``name``, as a module of its own."""
    path = tmp_path / f"{name}.py"
    path.write_text(assemble(PUBLISHED[name], MEMBERS[name]))
    spec = importlib.util.spec_from_file_location(f"published_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(maps, experts: int, deployment: Deployment) -> np.ndarray:
    arrays = [each.numpy() for each in maps]
    layers = arrays[0].shape[0]
    validate(*arrays, num_layers=layers, num_experts=experts, deployment=deployment)
    return arrays[0]


def test_writes_every_program_with_its_source_and_licence(index, tmp_path):
    assert main(["--output_dir", str(tmp_path / "out")]) == 0
    written = sorted(path.stem for path in (tmp_path / "out").iterdir())
    assert written == sorted(PUBLISHED)
    for name, published in PUBLISHED.items():
        text = (tmp_path / "out" / f"{name}.py").read_text()
        release = published.release
        head = text[: text.index("# The member's own words")]
        for fact in (release.filename, published.member, release.sha256):
            assert fact in head
        assert "Apache-2.0" in head
    downloads = [path for path in index.asked if not path.startswith("/simple/")]
    assert len(downloads) == len(set(downloads)) == 3


def test_every_program_answers_in_the_sandbox(index, tmp_path):
    main(["--output_dir", str(tmp_path)])
    deployment = Deployment(24, 4, 2, 8)
    windows = random_loads(0, 3, 2, 16)
    with Sandbox() as sandbox:
        for name in PUBLISHED:
            run = sandbox.run(tmp_path / f"{name}.py", windows, deployment)
            for answer in run.answers:
                validate(
                    answer.phy2log,
                    answer.log2phy,
                    answer.logcnt,
                    num_layers=2,
                    num_experts=16,
                    deployment=deployment,
                )
        # As in its engine: it keeps nodes or fails.
        with pytest.raises(Refused, match="AssertionError"):
            sandbox.run(tmp_path / "sglang_vec_hierarchical.py", windows, Deployment(24, 1, 2, 8))


def test_fetches_only_what_was_named(index, tmp_path):
    main(["vllm", "--output_dir", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["vllm.py"]
    assert all("vllm-0" in path or path == "/simple/vllm/" for path in index.asked)


@pytest.mark.parametrize("groups, kept", [(4, True), (3, False)])
def test_deepseek_keeps_nodes_where_groups_divide(groups, kept, tmp_path):
    weight = torch.ones(2, 12)
    for name, forwards in (("deepseek_hierarchical", kept), ("deepseek_global", False)):
        phy2log, _, _ = load(name, tmp_path).run_eplb(weight, 16, groups, 2, 4)
        assert (phy2log[0, 0] == 0) == forwards


@settings(deadline=None, max_examples=30)
@given(deployments(), seeds, st.integers(1, 3))
def test_reverse_maps_are_those_of_the_placement(tmp_path_factory, deployed, seed, layers):
    deployment, experts = deployed
    module = load("vllm", tmp_path_factory.mktemp("program"))
    phy2log = random_phy2log(seed, layers, deployment.num_replicas, experts)
    module.DefaultEplbPolicy.rebalance_experts = lambda *_: torch.from_numpy(phy2log)
    maps = module.run_eplb(torch.ones(layers, experts), *vars(deployment).values())
    truth = ExpertPlacement.from_phy2log(phy2log, experts)
    for ours, theirs in zip(maps, (truth.phy2log, truth.log2phy, truth.logcnt), strict=True):
        assert ours.dtype == torch.int64 and np.array_equal(ours.numpy(), theirs)


@settings(deadline=None, max_examples=30)
@given(deployments(), seeds)
def test_ascend_goes_on_from_its_last_placement(tmp_path_factory, deployed, seed):
    deployment, experts = deployed
    # With fewer experts than ranks the engine's own first placement names experts that are none.
    assume(experts >= deployment.num_gpus)
    module = load("vllm_ascend_default", tmp_path_factory.mktemp("program"))
    gpus = deployment.num_gpus
    before = None
    for load_of_window in random_loads(seed, 3, 2, experts):
        weight = torch.from_numpy(load_of_window.astype(np.float32))
        maps = module.run_eplb(weight, *vars(deployment).values())
        phy2log = check(maps, experts, deployment)
        table = module.policy.table.view(2, -1)
        if before is not None:
            assert np.array_equal(table.numpy(), before)
        assert np.array_equal(
            np.roll(table.view(2, gpus, -1).numpy(), 1, 1).reshape(2, -1), phy2log
        )
        told = torch.zeros(2, experts).scatter_add_(1, table, module.policy.load.view(2, -1))
        assert torch.allclose(told, weight)
        before = phy2log


def test_ascend_starts_as_its_engine_does(tmp_path):
    """The first placement of vllm-ascend 0.23: spare slots from the last rank on, next expert."""
    module = load("vllm_ascend_swift", tmp_path)
    module.run_eplb(torch.ones(1, 6), 9, 1, 1, 3)
    assert module.policy.table.tolist() == [[[0, 1, 2], [2, 3, 4], [4, 5, 0]]]
    assert module.policy.num_die_per_host == 3


def test_a_member_of_another_text_is_not_taken():
    with pytest.raises(ValueError, match="0 times"):
        assemble(PUBLISHED["vllm"], "print('hello')")


def refused(arguments: list[str], tmp_path: Path) -> str:
    """The message of the refusal, which leaves no file behind."""
    with pytest.raises(UserError) as refusal:
        main([*arguments, "--output_dir", str(tmp_path)])
    assert not list(tmp_path.iterdir())
    return str(refusal.value)


def test_refuses_what_does_not_match_its_pin(index, tmp_path):
    pinned = PUBLISHED["vllm"].release
    for content in (
        archive(pinned.filename, {PUBLISHED["vllm"].member: VLLM + "import os\n"}),
        index.pages[f"/{pinned.filename}"][:-1],
        index.pages[f"/{pinned.filename}"] + bytes(1 << 20),
    ):
        index.pages[f"/{pinned.filename}"] = content
        message = refused(["vllm"], tmp_path)
        assert pinned.filename in message and pinned.sha256 in message


def test_says_what_the_index_lacks(index, tmp_path):
    index.offer_page("vllm", [])
    assert "vllm-0.33.0.tar.gz" in refused(["vllm"], tmp_path)
    for page in (b"<html></html>", b"[]", b'{"files": [{}]}', b"\xff"):
        index.pages["/simple/vllm/"] = page
        message = refused(["vllm"], tmp_path)
        assert "package index" in message or "cannot fetch" in message
    del index.pages["/simple/vllm/"]
    assert "cannot fetch vllm-0.33.0.tar.gz" in refused(["vllm"], tmp_path)


def test_says_that_there_is_no_network(monkeypatch, tmp_path):
    monkeypatch.setenv(INDEX_VARIABLE, "http://127.0.0.1:9/simple")
    assert "Connection refused" in refused(["vllm"], tmp_path)
    for address in ("not an address", "", "ftp://x/simple", "http://[", "https://", "file:///tmp"):
        monkeypatch.setenv(INDEX_VARIABLE, address)
        assert INDEX_VARIABLE in refused(["vllm"], tmp_path)


def test_an_unknown_name_ends_in_one_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "eplb.bench.published",
        "nonesuch",
        "--output_dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nonesuch" in done.stderr and "deepseek_global" in done.stderr

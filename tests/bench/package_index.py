"""A package index on loopback, and stand-ins for the published balancers that it can serve."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Each expert's replicas stand in a row; forwards where nodes were to be kept, else backwards.
DEEPSEEK = """# The member's own words
import torch


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus, enable_hierarchical):
    layers, experts = weight.shape
    row = (torch.arange(num_replicas) % experts).sort().values
    phy2log = (row if enable_hierarchical else row.flip(0)).repeat(layers, 1)
    columns = -(-num_replicas // experts)
    log2phy = torch.full((layers, experts, columns), -1)
    logcnt = torch.zeros(layers, experts, dtype=torch.int64)
    for layer in range(layers):
        for slot, expert in enumerate(phy2log[layer].tolist()):
            log2phy[layer, expert, logcnt[layer, expert]] = slot
            logcnt[layer, expert] += 1
    return phy2log, log2phy, logcnt


__all__ = ["rebalance_experts"]
"""
# Maps of 32 bits, with a column for every spare slot.
SGLANG = (
    DEEPSEEK.replace("def rebalance_experts(weight,", "def maps(weight,")
    + """

def rebalance_experts(
    tokens_per_expert,
    num_physical_experts,
    num_local_physical_experts,
    num_groups,
    num_nodes,
    enable_hierarchical,
):
    steps, layers, experts = tokens_per_expert.shape
    assert steps == 1 and (num_groups % num_nodes == 0 or not enable_hierarchical)
    gpus = num_physical_experts // num_local_physical_experts
    phy2log, log2phy, logcnt = maps(
        tokens_per_expert.sum(0), num_physical_experts, num_groups, num_nodes, gpus,
        enable_hierarchical,
    )
    wide = torch.full((layers, experts, num_physical_experts - experts + 1), -1)
    wide[:, :, : log2phy.shape[2]] = log2phy
    return phy2log.int(), wide.int(), logcnt.int()
"""
)
VLLM = """# The member's own words
import numpy as np
import torch

from .abstract import AbstractEplbPolicy


class DefaultEplbPolicy(AbstractEplbPolicy):
    @classmethod
    def rebalance_experts(
        cls, weight, num_replicas, num_groups, num_nodes, num_ranks, old_global_expert_indices=None
    ):
        layers, experts = weight.shape
        return torch.from_numpy(np.tile(np.arange(num_replicas) % experts, (layers, 1)))
"""
# Hands every GPU's experts to the next GPU, and remembers what it was told.
ASCEND = """# The member's own words
import numpy as np

from .policy_abstract import EplbPolicy


class DefaultEplb(EplbPolicy):
    def rebalance_experts(self, current_expert_table, expert_workload):
        self.table, self.load = current_expert_table.clone(), expert_workload.clone()
        return 1, np.arange(2), np.roll(current_expert_table.numpy(), 1, axis=1).tolist()
"""
SWIFT = (
    ASCEND.replace("DefaultEplb(", "SwiftBalanceEplb(")
    .replace(
        "import numpy as np\n", "import numpy as np\nimport torch\nimport torch_npu  # noqa: F401\n"
    )
    .replace(
        "    def rebalance",
        "    def __init__(self):\n"
        "        self.num_die_per_host = torch.npu.device_count()\n\n    def rebalance",
    )
)
MEMBERS = {
    "deepseek_hierarchical": DEEPSEEK,
    "deepseek_global": DEEPSEEK,
    "sglang_vec": SGLANG,
    "sglang_vec_hierarchical": SGLANG,
    "vllm": VLLM,
    "vllm_ascend_default": ASCEND,
    "vllm_ascend_swift": SWIFT,
}


def archive(filename: str, members: dict[str, str]) -> bytes:
    """A wheel or a source archive with ``members`` and another file."""
    content = io.BytesIO()
    members = {"README": "nothing to see", **members}
    if filename.endswith(".whl"):
        with zipfile.ZipFile(content, "w") as wheel:
            for name, text in members.items():
                wheel.writestr(name, text)
    else:
        with tarfile.open(fileobj=content, mode="w:gz") as source:
            for name, text in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(text.encode())
                source.addfile(entry, io.BytesIO(text.encode()))
    return content.getvalue()


class Index:
    """A package index on loopback. ``pages`` is what it serves; ``asked`` is what was wanted."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.asked: list[str] = []
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append(self.path)
                page = index.pages.get(self.path)
                self.send_response(404 if page is None else 200)
                if self.path.startswith("/simple/"):
                    self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json")
                self.end_headers()
                self.wfile.write(page or b"")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # Whoever stops reading early is what some tests are about.
        self.server.handle_error = lambda *_: None
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def offer(self, package: str, filename: str, content: bytes) -> None:
        files = [
            {"filename": "other", "url": "x", "hashes": {}},
            {"filename": filename, "url": f"../../{filename}", "hashes": {}},
        ]
        self.offer_page(package, files)
        self.pages[f"/{filename}"] = content

    def offer_page(self, package: str, files: list[dict]) -> None:
        page = {"meta": {"api-version": "1.0"}, "name": package, "files": files}
        self.pages[f"/simple/{package}/"] = json.dumps(page).encode()

"""Which balancers are fetched, from which releases, and what makes each a program.

Adapters call a balancer as its engine does and convert no more than the contract asks for. SGLang
and DeepSeek build all three maps themselves. vLLM and vllm-ascend build the two reverse maps
elsewhere, slot by slot; here they are sorted, which is faster. vLLM's optional reordering of slots
within a GPU is left out: it costs time and changes no GPU's load. SGLang is shown one window as one
step; vllm-ascend keeps its placement from call to call, as in its engine, and is told each slot's
share of its expert's load.

Not covered: balancers that need more than torch and numpy (vllm-ascend's FlashLB needs numba and
scipy) or are compiled (TensorRT-LLM's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from eplb.bench.published.releases import Release


@dataclass(frozen=True)
class Published:
    """A balancer in a release.

    member: its file there
    adapter: code that defines ``rebalance_experts`` as the contract has it, after the member's own
    chosen: what stands in the adapter for CHOSEN, where engines leave a choice
    cuts: pieces of the member, each found exactly once, and what replaces them so that it stands
        alone
    """

    release: Release
    member: str
    adapter: str
    chosen: str = ""
    cuts: Mapping[str, str] = field(default_factory=dict)


SGLANG = Release(
    "sglang-0.5.23-cp312-cp312-manylinux_2_34_x86_64.whl",
    "8d257a319395b322bb1be327d05e5528859358153c8563b04c0a4a3c8af164b6",
    "Apache-2.0; copied there from https://github.com/deepseek-ai/EPLB, which is under MIT",
)
VLLM = Release(
    "vllm-0.33.0.tar.gz",
    "f4c33c2503d52bb411146afa9618a4f48bed68912f617e6803ac8d76e4c74112",
    "Apache-2.0",
)
VLLM_ASCEND = Release(
    "vllm_ascend-0.23.0.post1.tar.gz",
    "a3b9f4a5dd7aa50c37e03d1f35937c4ae5aeacc49b734cac74d59ce5757738e1",
    "Apache-2.0",
)

_SIGNATURE = "def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):"

_DEEPSEEK_ADAPTER = f"""
published = rebalance_experts


{_SIGNATURE}
    return published(weight, num_replicas, num_groups, num_nodes, num_gpus, CHOSEN)
"""

_SGLANG_ADAPTER = f"""
published = rebalance_experts


{_SIGNATURE}
    slots_per_gpu = num_replicas // num_gpus
    steps = weight.unsqueeze(0)
    phy2log, log2phy, logcnt = published(
        steps, num_replicas, slots_per_gpu, num_groups, num_nodes, CHOSEN
    )
    # It has a column for every spare slot; converting those that nothing uses would cost time.
    used = int(logcnt.max())
    return phy2log.long(), log2phy[:, :, :used].long(), logcnt.long()
"""

_REVERSE_MAPS = """
def with_reverse_maps(phy2log, experts):
    layers, slots = phy2log.shape
    every_layer = np.arange(layers)[:, None]
    cells = phy2log + every_layer * experts
    logcnt = np.bincount(cells.ravel(), minlength=layers * experts).reshape(layers, experts)
    # numpy sorts numbers of 16 bits by radix.
    order = np.argsort(phy2log.astype(np.uint16), axis=1, kind="stable")
    expert = np.take_along_axis(phy2log, order, axis=1)
    first = logcnt.cumsum(axis=1) - logcnt
    rank = np.arange(slots) - np.take_along_axis(first, expert, axis=1)
    log2phy = np.full((layers, experts, int(logcnt.max())), -1)
    log2phy[every_layer, expert, rank] = order
    return torch.from_numpy(phy2log), torch.from_numpy(log2phy), torch.from_numpy(logcnt)
"""

_VLLM_ADAPTER = f"""{_REVERSE_MAPS}

{_SIGNATURE}
    phy2log = DefaultEplbPolicy.rebalance_experts(
        weight, num_replicas, num_groups, num_nodes, num_gpus
    )
    return with_reverse_maps(phy2log.numpy(), weight.shape[1])
"""

# The engine's policies work on the placement in force, and on loads that it counts per slot.
_ASCEND_ADAPTER = f"""
import torch

{_REVERSE_MAPS}

policy = None
placement = None


def first_placement(experts, slots, gpus):
    \"\"\"The engine's before it has seen a load: [gpus, slots per GPU].\"\"\"
    held = [part.tolist() for part in np.array_split(np.arange(experts), gpus)]
    for spare in range(slots - experts):
        gpu = held[-1 - spare % gpus]
        gpu.append((gpu[-1] + 1) % experts if gpu else spare % gpus + 1)
    return torch.tensor(held)


{_SIGNATURE}
    global policy, placement
    layers, experts = weight.shape
    if policy is None:
        policy = CHOSEN
        placement = first_placement(experts, num_replicas, num_gpus).repeat(layers, 1, 1)
    held = placement.view(layers, num_replicas)
    copies = torch.zeros(layers, experts).scatter_add_(1, held, torch.ones(held.shape))
    slot_load = (weight / copies).gather(1, held).view(placement.shape)
    _, _, new_placement = policy.rebalance_experts(placement, slot_load)
    placement = torch.tensor(new_placement)
    return with_reverse_maps(placement.view(layers, num_replicas).numpy(), experts)
"""

_DEEPSEEK = (SGLANG, "sglang/srt/eplb/eplb_algorithms/deepseek.py", _DEEPSEEK_ADAPTER)
_SGLANG = (SGLANG, "sglang/srt/eplb/eplb_algorithms/deepseek_vec.py", _SGLANG_ADAPTER)
_VLLM = (VLLM, "vllm-0.33.0/vllm/distributed/eplb/policy/default.py", _VLLM_ADAPTER)
_VLLM_CUTS = {"from .abstract import AbstractEplbPolicy\n": "", "(AbstractEplbPolicy):": ":"}
_ASCEND = "vllm_ascend-0.23.0.post1/vllm_ascend/eplb/core/policy/"
_DEFAULT = (VLLM_ASCEND, _ASCEND + "policy_default_eplb.py", _ASCEND_ADAPTER)
_SWIFT = (VLLM_ASCEND, _ASCEND + "policy_swift_balancer.py", _ASCEND_ADAPTER)
_ASCEND_CUTS = {"from .policy_abstract import EplbPolicy\n": "", "(EplbPolicy):": ":"}

PUBLISHED = {
    # As SGLang's algorithm "auto" and DeepSeek's own repository choose.
    "deepseek_hierarchical": Published(*_DEEPSEEK, "num_groups % num_nodes == 0"),
    "deepseek_global": Published(*_DEEPSEEK, "False"),
    "sglang_vec": Published(*_SGLANG, "False"),
    "sglang_vec_hierarchical": Published(*_SGLANG, "True"),
    "vllm": Published(*_VLLM, cuts=_VLLM_CUTS),
    "vllm_ascend_default": Published(*_DEFAULT, "DefaultEplb()", _ASCEND_CUTS),
    "vllm_ascend_swift": Published(
        *_SWIFT,
        "SwiftBalanceEplb(num_gpus // num_nodes)",
        _ASCEND_CUTS
        | {
            "import torch_npu  # noqa: F401\n": "",
            "def __init__(self):": "def __init__(self, num_die_per_host):",
            "torch.npu.device_count()": "num_die_per_host",
        },
    ),
}

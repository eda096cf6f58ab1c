"""vLLM's own EPLB state on CPU, in several gloo processes, with our policy in it.

    python -m tests.engines.vllm_on_cpu FOLDER    # with the plug-in's variables set

Everything from the plug-in's loading to the exchanged weights is vLLM's code; see `stand_ins` for
what it takes of a GPU. The model is a stand-in: weights that tell which expert they are. Each rank
serves its slots for some intervals, then writes ``rank<R>.json`` to FOLDER: the maps of both models
and whether every weight is where its map says.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

RANKS, EXPERTS, SLOTS, TARGET_LAYERS, DRAFT_LAYERS = 4, 16, 24, 3, 1
WINDOW, INTERVAL, REARRANGEMENTS = 4, 8, 3


class Model:
    """Weights of every layer [local slots, …] that hold layer * 100 + expert."""

    num_expert_groups, num_shared_experts = 1, 0
    num_logical_experts = num_routed_experts = EXPERTS
    num_physical_experts, num_redundant_experts = SLOTS, SLOTS - EXPERTS
    num_local_physical_experts = SLOTS // RANKS

    def __init__(self, layers: int, rank: int) -> None:
        self.num_moe_layers, self.moe_layers = layers, []
        first = torch.arange(SLOTS).view(RANKS, -1)[rank] % EXPERTS
        self.expert_weights = [
            [(first + 100.0 * layer).view(-1, 1).repeat(1, width) for width in (5, 2)]
            for layer in range(layers)
        ]

    def set_eplb_state(self, *views: torch.Tensor) -> None:
        pass

    def matches(self, placement: torch.Tensor, rank: int) -> bool:
        """Whether the weights are those of the experts in ``placement`` [layers, slots]."""
        local = placement.view(len(placement), RANKS, -1)[:, rank]
        return all(
            torch.equal(weight, (local[layer] + 100.0 * layer).view(-1, 1).expand_as(weight))
            for layer, weights in enumerate(self.expert_weights)
            for weight in weights
        )


def stand_ins() -> None:
    """The two things that vllm 0.33.0 needs of a GPU here, both in ``eplb_state.py``.

    Rank 0 times a rearrangement with ``torch.Event(enable_timing=True)``, and new maps are
    committed through pinned memory. torch has neither without an accelerator.
    """
    from vllm.distributed.eplb import eplb_state

    eplb_state.PIN_MEMORY = False

    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            pass

        def record(self, stream: object = None) -> None:
            pass

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, other: object) -> float:
            return 0.0

    torch.Event = Event


def serve(rank: int, folder: Path) -> None:
    stand_ins()
    from vllm.config import DeviceConfig, ParallelConfig, VllmConfig, set_current_vllm_config
    from vllm.config.logging import LoggingConfig
    from vllm.config.parallel import EPLBConfig
    from vllm.distributed import parallel_state
    from vllm.distributed.eplb.eplb_state import EplbState
    from vllm.logger import configure_logging
    from vllm.plugins import load_general_plugins

    configure_logging(LoggingConfig())
    load_general_plugins()
    # torch_nccl sends with torch.distributed in the CPU group; torch_gloo wants an accelerator's
    # stream. Asynchronous rearrangement runs in a CUDA stream.
    eplb = EPLBConfig(
        window_size=WINDOW, step_interval=INTERVAL, use_async=False, communicator="torch_nccl"
    )
    whole = VllmConfig(
        parallel_config=ParallelConfig(tensor_parallel_size=RANKS, eplb_config=eplb),
        device_config=DeviceConfig("cpu"),
    )
    parallel = whole.parallel_config
    # The configuration's check refuses EPLB without a GPU, the state does not.
    parallel.enable_eplb = True
    with set_current_vllm_config(whole):
        address = f"file://{folder}/store"
        parallel_state.init_distributed_environment(RANKS, rank, address, rank, "gloo")
        parallel_state.initialize_model_parallel(RANKS, backend="gloo")
        state = EplbState(parallel, torch.device("cpu"))
        models = {"target": Model(TARGET_LAYERS, rank), "draft": Model(DRAFT_LAYERS, rank)}
        for name, model in models.items():
            config = SimpleNamespace(model=name, compute_hash=lambda name=name: name)
            state.add_model(model, config)
        state.step(is_dummy=True, is_profile=True)
        draws = torch.Generator().manual_seed(rank)
        seen = {name: [] for name in models}
        while len(seen["target"]) < REARRANGEMENTS:
            for each in state.model_states.values():
                heat = torch.rand(each.expert_load_pass.shape, generator=draws) ** 4
                each.expert_load_pass.copy_((heat * 1000).int())
            state.step()
            if state.expert_rearrangement_step == 0:
                for name, each in state.model_states.items():
                    placement = each.physical_to_logical_map
                    seen[name].append(
                        {
                            "placement": placement.tolist(),
                            "load": each.last_expert_load.tolist(),
                            "weights_match": models[name].matches(placement, rank),
                        }
                    )
    (folder / f"rank{rank}.json").write_text(json.dumps(seen))
    parallel_state.destroy_model_parallel()
    parallel_state.destroy_distributed_environment()


if __name__ == "__main__":
    # Importing vllm takes long, so once is enough.
    import vllm.distributed.eplb.eplb_state  # noqa: F401

    arguments = (Path(sys.argv[1]),)
    torch.multiprocessing.start_processes(serve, arguments, RANKS, start_method="fork")

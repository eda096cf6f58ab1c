"""Small recordings and placements that the engines' tests share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import save_file

from eplb.engines.model import EnginePlacement, ExpertStatistics
from eplb.trace import TraceHeader

# Counts [3 layers, 4 experts], and as if after three dense layers.
ROWS = [[54, 475, 68, 476], [72, 7, 1144, 267], [667, 198, 535, 159]]
ARRAY = np.array(ROWS)
MODEL = np.concatenate([np.zeros((3, 4), int), ARRAY])


def statistics(
    iterations: int = 20,
    layers: tuple[int, ...] = (3, 4, 5),
    experts: int = 16,
    first_iteration: int = 100,
    seed: int = 0,
) -> ExpertStatistics:
    """Uneven loads whose experts differ from layer to layer."""
    draws = np.random.default_rng(seed)
    popularity = np.exp(draws.normal(size=(len(layers), experts)))
    loads = draws.poisson(popularity * 200, (iterations, len(layers), experts)).astype(np.int64)
    return ExpertStatistics(loads, layers, first_iteration, TraceHeader(top_k=2))


def write_ranks(folder: Path, recorded: ExpertStatistics, ranks: int = 4, dtype=np.int32) -> None:
    """The folder that TensorRT-LLM writes: ``recorded`` split at random over ``ranks`` files."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"num_experts": recorded.num_experts, "num_experts_per_token": recorded.header.top_k}
    (folder / "meta_info.json").write_text(json.dumps(meta))
    draws = np.random.default_rng(1)
    parts = draws.multinomial(recorded.loads, [1 / ranks] * ranks)
    for rank in range(ranks):
        tensors = {
            f"{iteration}_{layer}": parts[row, column, :, rank].astype(dtype)
            for row, iteration in enumerate(recorded.iterations)
            for column, layer in enumerate(recorded.layers)
        }
        save_file(tensors, folder / f"rank{rank}.safetensors")


def write_rank(folder: Path, rank: int, cells: dict[tuple[int, int], list[int]]) -> None:
    """One file of such a folder, of a model of four experts, from {(iteration, layer): counts}."""
    folder.mkdir(exist_ok=True)
    (folder / "meta_info.json").write_text(json.dumps({"num_experts": 4}))
    tensors = {f"{i}_{n}": np.array(row, np.int32) for (i, n), row in cells.items()}
    save_file(tensors, folder / f"rank{rank}.safetensors")


@st.composite
def placements(draw, one_replica_per_gpu: bool = False) -> EnginePlacement:
    """Any placement with every expert in every layer, on up to four GPUs."""
    num_gpus = draw(st.integers(1, 4))
    per_gpu = draw(st.integers(1, 5))
    slots = num_gpus * per_gpu
    experts = draw(st.integers(per_gpu if one_replica_per_gpu else 1, slots))
    layers = sorted(draw(st.sets(st.integers(0, 12), min_size=1, max_size=4)))
    rows = []
    for _ in layers:
        if one_replica_per_gpu:
            # Walking round the experts never puts one twice on a GPU that has fewer slots.
            order = np.array(draw(st.permutations(range(experts))))
            rows.append(order[np.arange(slots) % experts])
        else:
            spare = draw(
                st.lists(
                    st.integers(0, experts - 1), min_size=slots - experts, max_size=slots - experts
                )
            )
            rows.append(draw(st.permutations([*range(experts), *spare])))
    return EnginePlacement(np.array(rows, dtype=np.int64), tuple(layers), experts, num_gpus)

"""Recordings of several files as people have them: ranks, stages and times come together.

Run: python -m pytest tests/engines/test_odd_folders.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from eplb.common import UserError
from eplb.engines import registry
from tests.engines.samples import ARRAY, MODEL, ROWS, statistics, write_rank, write_ranks


def recorder_dump(folder: Path, number: int, rank: int, counts: np.ndarray) -> None:
    content = {"rank": rank, "logical_count": torch.tensor(counts)}
    torch.save(content, folder / f"expert_distribution_recorder_17.{number}.pt")


def test_sglang_dumps_of_pipeline_stages_stand_side_by_side(tmp_path):
    first, second = np.stack([MODEL] * 2), np.stack([MODEL] * 2)
    first[:, 5:] = second[:, :5] = 0
    recorder_dump(tmp_path, 1, 0, first)
    recorder_dump(tmp_path, 2, 1, second)
    statistics = registry.read_statistics(tmp_path)
    assert np.array_equal(statistics.loads, np.stack([ARRAY] * 2)) and statistics.layers == (
        3,
        4,
        5,
    )
    assert "2 pipeline stages, put side by side" in statistics.notes[0]
    # Ranks that count the same layers dumped at different times.
    recorder_dump(tmp_path, 3, 1, first)
    assert len(registry.read_statistics(tmp_path).loads) == 6


def test_sglang_tables_of_ranks_add_up_and_times_follow(tmp_path):
    for rank, times in ((0, (1.5, 20.1)), (1, (1.7, 20.2))):
        for time, factor in zip(times, (1, 3), strict=True):
            name = f"expert_distribution_rank{rank}_timestamp{time}.csv"
            lines = [
                f"{n},{e},{c * factor}" for n, row in enumerate(ROWS, 3) for e, c in enumerate(row)
            ]
            (tmp_path / name).write_text("\n".join(["layer_id,expert_id,count", *lines]))
    statistics = registry.read_statistics(tmp_path)
    assert np.array_equal(statistics.loads, [2 * ARRAY, 6 * ARRAY]) and statistics.layers == (
        3,
        4,
        5,
    )
    one = registry.read_statistics(tmp_path / "expert_distribution_rank0_timestamp1.5.csv")
    assert "one rank's at one time" in one.notes[0]


def test_tensorrt_llm_ranks_are_united(tmp_path):
    """Stages hold other layers, a rank stops earlier, an MTP layer starts later."""
    write_rank(tmp_path, 0, {(i, n): [1, 2, 3, 4] for i in (5, 6, 7) for n in (0, 1)})
    write_rank(tmp_path, 1, {(i, n): [4, 4, 4, 4] for i in (5, 6) for n in (0, 1)})
    write_rank(tmp_path, 2, {(7, 9): [0, 0, 0, 8]})
    statistics = registry.read_statistics(tmp_path)
    assert (statistics.layers, statistics.iterations) == ((0, 1, 9), range(5, 8))
    assert statistics.loads[:, 0].tolist() == [[5, 6, 7, 8], [5, 6, 7, 8], [1, 2, 3, 4]]
    assert statistics.loads[:, 2].tolist() == [[0] * 4, [0] * 4, [0, 0, 0, 8]]
    assert statistics.header.num_gpus == 2
    notes = " ".join(statistics.notes)
    assert "different layers" in notes and "not all ranks recorded iteration 7;" in notes


def test_an_iteration_that_no_rank_recorded_keeps_its_number(tmp_path):
    write_rank(tmp_path, 0, {(i, 0): [1, 2, 3, 4] for i in (5, 7)})
    statistics = registry.read_statistics(tmp_path)
    assert statistics.iterations == range(5, 8) and not statistics.loads[1].any()
    assert "no token in iteration 6" in statistics.notes[0]
    write_rank(tmp_path, 0, {(i, 0): [1, 2, 3, 4] for i in (5, 9000)})
    with pytest.raises(UserError, match="iterations 5 to 9000 but only 2 of them"):
        registry.read_statistics(tmp_path)


META = {
    "of another model": ('{"num_experts": 9}', "has shape .4., meta_info.json says 9"),
    "without experts": ('{"num_expert": 4}', "does not give num_experts"),
    "with text": ('{"num_experts": "4"}', "does not give num_experts"),
    "below one": ('{"num_experts": 0}', "has shape .4., meta_info.json says 0"),
    "a list": ("[4]", "does not give num_experts"),
}


@pytest.mark.parametrize("name", META)
def test_a_meta_file_that_does_not_fit_is_named(tmp_path, name):
    content, message = META[name]
    write_rank(tmp_path, 0, {(0, 0): [1, 2, 3, 4]})
    (tmp_path / "meta_info.json").write_text(content)
    with pytest.raises(UserError, match=message):
        registry.read_statistics(tmp_path)


def truncate(folder: Path) -> None:
    path = folder / "rank2.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def with_tensor(rank: int, name: str, tensor: np.ndarray):
    """Another tensor in a rank's file, or another one of that name."""

    def change(folder: Path) -> None:
        path = folder / f"rank{rank}.safetensors"
        save_file(load_file(path) | {name: tensor}, path)

    return change


BIAS = np.zeros(16, np.int32)
DAMAGE = {
    "missing rank": (lambda f: (f / "rank1.safetensors").unlink(), "lacks rank1.safetensors"),
    "no meta": (lambda f: (f / "meta_info.json").unlink(), "meta_info.json does not exist"),
    "bad meta": (lambda f: (f / "meta_info.json").write_text("{"), "not valid JSON"),
    "truncated": (truncate, "rank2.safetensors is truncated"),
    "odd name in rank 0": (with_tensor(0, "bias", BIAS), "tensor 'bias' is not named"),
    "odd name": (with_tensor(2, "bias", BIAS), "tensor 'bias' is not named"),
    "differing experts": (
        with_tensor(2, "101_3", np.zeros(8, np.int32)),
        "101_3 has shape .8., meta_info.json says 16",
    ),
    "negative": (
        with_tensor(2, "101_3", np.full(16, -1, np.int32)),
        "layer 3 in iteration 101, expert 0 is -1, negative",
    ),
    "fractions": (with_tensor(2, "101_3", np.full(16, 0.5, np.float32)), "not whole numbers"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_told_in_a_line(tmp_path, damage):
    write_ranks(tmp_path, statistics())
    change, message = DAMAGE[damage]
    change(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        registry.read_statistics(tmp_path)
    assert "\n" not in str(error.value).strip()

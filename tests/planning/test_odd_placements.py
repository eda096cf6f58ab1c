"""Placement files as people have them, beside the counts that they belong to.

Run: python -m pytest tests/planning/test_odd_placements.py
"""

from __future__ import annotations

import json

import pytest
import torch

from eplb.common import UserError
from eplb.engines import registry
from tests.engines.samples import ROWS
from tests.planning.commands import reported


def test_a_layer_without_tokens_is_left_out_of_the_report(tmp_path):
    counts = tmp_path / "a.json"
    counts.write_text(json.dumps([[3, 1], [0, 0]]))
    told, notes = reported(expert_statistic_path=counts, ep_size=2)
    assert told.splitlines()[-1].split() == ["average", "2.0", "1.4", "0.5000"]
    assert "no token in layer 1: left out of averages, and experts stay in order" in notes[0]


def devices(*rows: list[int], **ids) -> dict:
    return {"device_list": [{"device_expert": list(row)} for row in rows]} | ids


EVEN = [[0, 1], [2, 3]]
MAPS = {
    "no ids": [devices(*EVEN)] * 3,
    "ids from 3": [devices(*EVEN, layer_id=n, device_count=2) for n in (3, 4, 5)],
    "an MTP layer": [devices(*EVEN)] * 4,
    "a shared expert on every device": [devices([0, 1, 4], [4, 2, 3])] * 3,
    "devices of a shared expert": [devices([4], *EVEN)] * 3,
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_as_people_have_them(tmp_path, name):
    """All of them put experts in order, so that the report's two tables are the same."""
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    content = {"moe_layer_count": len(MAPS[name]), "layer_list": MAPS[name]}
    (tmp_path / "map.json").write_text(json.dumps(content))
    told, _ = reported(expert_statistic_path=tmp_path / "a.json", eplb_config=tmp_path / "map.json")
    _, *rows = told.strip().splitlines()[-3:]
    assert rows[0].split()[-2:] == rows[1].split()[-2:]
    assert "rank of 2" in told


CONFIGS = {
    "inline": (
        "enable_attention_dp: true\nmoe_config:\n  load_balancer:\n    num_slots: 4\n"
        "    initial_global_assignments: {0: [3, 1, 2, 0], 1: [0, 1, 2, 3], 2: [0, 1, 2, 3]}\n",
        None,
    ),
    "by name": ("moe_config:\n  load_balancer: ./b.yaml\n", "only names the balancer's file, ./b"),
    "online only": (
        "num_slots: 80\nlayer_updates_per_iter: 2\n",
        "places nothing: it has num_slots",
    ),
    "nothing": ("load_balancer:\n", "has no initial_global_assignments"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_as_people_have_them(tmp_path, name):
    content, message = CONFIGS[name]
    (tmp_path / "a.yaml").write_text(content)
    if message is None:
        assert registry.read_placement(tmp_path / "a.yaml").phy2log[0].tolist() == [3, 1, 2, 0]
        return
    with pytest.raises(UserError, match=message):
        registry.read_placement(tmp_path / "a.yaml")


def test_rows_may_be_tensors_and_enormous_ids_are_named(tmp_path):
    rows = torch.tensor([[0, 1, 2, 0], [2, 1, 0, 1]])
    for name, content in (("whole", rows), ("list", list(rows))):
        torch.save({"physical_to_logical_map": content}, tmp_path / f"{name}.pt")
        read = registry.read_placement(tmp_path / f"{name}.pt")
        assert read.phy2log.tolist() == rows.tolist() and read.model_layers == 2
    wrong = {"slot 1 is 11805": [[0, 2**70]], "slot 1 is 1.5": [[0, 1.5]], "not a list": [[]]}
    for words, rows in (wrong | {"slot 0 is true": [[True, False]]}).items():
        (tmp_path / "a.json").write_text(json.dumps({"physical_to_logical_map": rows}))
        with pytest.raises(UserError, match=f"layer 0.* {words}"):
            registry.read_placement(tmp_path / "a.json")

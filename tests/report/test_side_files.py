"""What lies beside the database. Run: python -m pytest tests/report/test_side_files.py"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from eplb.report.side_files import FailedEdit, confirmed, failed_edits, reason
from tests.report.by_hand import finalist, write_confirmation


def test_reasons_and_edits(finished_run: Path) -> None:
    assert reason(finished_run, 3) == "logcnt: layer 3, expert 7 claims 2"
    assert reason(finished_run, 4) == ""
    assert list(failed_edits(finished_run)) == [FailedEdit(31, "SEARCH text not found")]


def test_files_that_are_not_whole(finished_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "copy")
    (folder / "gen_3/results/correct.json").write_text('{"correct": fal')
    (folder / "gen_10/results/correct.json").write_text(json.dumps(["error"]))
    (folder / "gen_17/results/correct.json").unlink()
    assert [reason(folder, generation) for generation in (3, 10, 17)] == ["", "", ""]
    assert reason(folder, 24) == reason(finished_run, 24) != ""


def test_what_was_confirmed(tmp_path: Path) -> None:
    rows = [finalist(9, 0.75, 0.5, 0.0), finalist(7, 0.7, 0.6, 0.4)]
    write_confirmation(tmp_path, {"winner": 7, "programs": rows})
    first, second = confirmed(tmp_path)
    traces = [(each.trace, each.seed) for each in first.scores]
    assert traces == [("deepseek-v3", str(2**127 + 1)), ("kimi-k2", "7")]
    assert (first.generation, first.known, first.fresh) == (7, 0.7, 0.5)
    assert [(each.score, each.refusal) for each in first.scores] == [(0.6, None), (0.4, None)]
    assert (second.id, second.name, second.scores[1].refusal) == ("id-9", "edit 9", "slow")


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"programs": {}},
        {"programs": []},
        {"programs": ["x"]},
        {"programs": [finalist(1, float("nan"), 0.5)]},
        {"programs": [finalist(1, 0.5, 0.5) | {"fresh": "high"}]},
        {"programs": [finalist(1, 0.5, 0.5) | {"generation": float("inf")}]},
        {"programs": [finalist(1, 0.5, 0.5), finalist(2, 0.5, 0.5, 0.5)]},
    ],
)
def test_a_confirmation_that_is_none(tmp_path: Path, content: object) -> None:
    assert confirmed(tmp_path) == []
    write_confirmation(tmp_path, content)
    assert confirmed(tmp_path) == []

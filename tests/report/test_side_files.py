"""What the generations' folders say. Run: python -m pytest tests/report/test_side_files.py"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from eplb.report.side_files import FailedEdit, failed_edits, reason


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

"""Whatever a path leads to, reading it ends in content of the kind or in one line that helps.

Run: python -m pytest tests/engines/test_registry.py
"""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from eplb.common import UserError
from eplb.engines import registry
from tests.engines.samples import ROWS


def test_empty_folders_and_missing_files(tmp_path):
    with pytest.raises(UserError, match="a folder of nothing, which is in no known format"):
        registry.read_statistics(tmp_path)
    (tmp_path / "moe_load_0.npy").touch()
    with pytest.raises(UserError, match="a folder of moe_load_0.npy.*give one of its files"):
        registry.read_statistics(tmp_path)
    with pytest.raises(UserError, match="does not exist; check the path"):
        registry.read_statistics(tmp_path / "nowhere")


@pytest.mark.parametrize("method", ["open", "iterdir"])
@pytest.mark.parametrize("read", [registry.read_statistics, registry.read_placement])
def test_what_may_not_be_read_has_a_way_out_whoever_reads_it(tmp_path, monkeypatch, method, read):
    """A file, and a folder; in the root user's hands every file can be read, hence the patch."""
    path = tmp_path if method == "iterdir" else tmp_path / "a.json"
    (tmp_path / "a.json").write_text(json.dumps(ROWS))

    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(UserError, match=f"cannot read {path}: Permission denied; give one that"):
        read(path)


@pytest.mark.parametrize("content", ["\n\n   Apache License\n", '{"a": 1}', "[[5, 6]]"])
def test_what_is_no_placement_is_not_taken_for_counts(tmp_path, content):
    (tmp_path / "LICENSE").write_text(content)
    with pytest.raises(UserError, match="no known format of placements; give the file that") as it:
        registry.read_placement(tmp_path / "LICENSE")
    assert "weight" not in str(it.value)
    assert "Apache" not in content or "begins with 'Apache License'" in str(it.value)

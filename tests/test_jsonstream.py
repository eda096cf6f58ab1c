"""Large JSON objects piece by piece: `pytest tests/test_jsonstream.py`."""

from __future__ import annotations

import io
import json

import pytest

from eplb import jsonstream
from eplb.jsonstream import BadJson, items_of


def read(text: str | bytes) -> list[tuple]:
    data = text if isinstance(text, bytes) else text.encode()
    return list(items_of(io.BytesIO(data), "records"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("  \n ", "is empty"),
        ("hello", "not a JSON object"),
        ("[1, 2]", "not a JSON object"),
        (b'{"records": "\xff"}', "UTF-8"),
        ('{"records": [}', "not JSON"),
        ('{"records" []}', "':'"),
        ("{1: 2}", "not a string"),
        ('{"records": []} {}', "goes on"),
        ('{"others": []}', 'no "records"'),
        ("{}", 'no "records"'),
        ('{"records": {}}', "not a list"),
        ('{"records": [], "records": []}', "twice"),
        ("[" * 100_000, "not a JSON object"),
        ('{"x": ' + "[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_is_said(text, says):
    with pytest.raises(BadJson, match=says):
        read(text)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_every_truncation_is_an_error(chunk, monkeypatch):
    """Cut at every place, and read in pieces of every size."""
    monkeypatch.setattr(jsonstream, "CHUNK_BYTES", chunk)
    content = {"model": "m", "top_k": -2.5, "records": [[[10, 20], [3, 4]], {"a": None}], "x": True}
    text = json.dumps(content)
    for length in range(len(text)):
        with pytest.raises(BadJson):
            read(text[:length])
    items = [("model", "m"), ("top_k", -2.5), *(("records", each) for each in content["records"])]
    assert read(text) == [*items, ("x", True)]


def test_one_wrong_character_is_found_without_reading_on():
    """A mistake near the start must not pull the rest of a large file into memory."""
    file = io.BytesIO(b'{"records": [[1, 2; 3], ' + 200_000 * b"[1, 2, 3], " + b"[1]]}")
    with pytest.raises(BadJson, match="not JSON"):
        list(items_of(file, "records"))
    assert file.tell() <= jsonstream.CHUNK_BYTES < len(file.getvalue())

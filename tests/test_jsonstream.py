"""Large JSON objects piece by piece: `pytest tests/test_jsonstream.py`."""

from __future__ import annotations

import io
import json

import pytest

from eplb import jsonstream
from eplb.common import UserError
from eplb.jsonstream import MOST_TOKENS, BadJson, items_of, table_of


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


def test_a_table_is_what_json_has():
    assert table_of([[0, MOST_TOKENS], [-1, 2]], "it", "slot", least=-1).tolist() == [
        [0, MOST_TOKENS],
        [-1, 2],
    ]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (None, "it is not a list of layers"),
        ([], "it is not a list of layers"),
        ({"a": [1]}, "it is not a list of layers"),
        ([1], "it, layer 0 is not a list"),
        ([[1], []], "it, layer 1 is not a list"),
        ([[1, 2], "12"], "it, layer 1 is not a list"),
        ([[1, 2], [3]], "it, layer 1 has 1 experts, layer 0 has 2"),
        ([[1, -2]], "it, layer 0, expert 1 is -2"),
        ([[1, MOST_TOKENS + 1]], f"expert 1 is {MOST_TOKENS + 1}"),
        ([[1, 2**70]], "expert 1 is 11805"),
        ([[1, 2], [float("inf"), 1]], "layer 1, expert 0 is Infinity"),
        ([[5, 1.5]], "expert 1 is 1.5"),
        ([[5, 2.0]], "expert 1 is 2.0"),
        ([[5, "7"]], 'expert 1 is "7"'),
        ([[5, "7" * 99]], "expert 1 is .{40}…; they must be integers from 0 to"),
        ([[5, True]], "expert 1 is true"),
        ([[5, False]], "expert 1 is false"),
        ([[5, None]], "expert 1 is null"),
        ([[5, [1]]], r"expert 1 is \[1\]"),
    ],
)
def test_what_is_no_table_is_said_with_layer_and_expert(rows, says):
    with pytest.raises(UserError, match=says):
        table_of(rows, "it", "expert")

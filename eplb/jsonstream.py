"""JSON of recordings: large objects read piece by piece, and tables of token counts.

Covered: one object in a UTF-8 file, of which one key holds a long list whose items come one at a
time, so that at most one item and one chunk of text are in memory; and what can be wrong with a
list of lists of whole numbers. Not covered: any other top level.
"""

from __future__ import annotations

import codecs
import json
import re
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, BinaryIO

import numpy as np

from eplb.common import UserError

CHUNK_BYTES = 1 << 20
# More tokens than this in one record are a mistake, and could overflow the sums of windows.
MOST_TOKENS = 2**40
# The decoder reports a token that was cut by the end of the text at the token's start, and the
# longest token but strings is "-Infinity"; strings have a message of their own.
LONGEST_TOKEN = 16
_SPACE = re.compile(r"[ \t\n\r]*")


class BadJson(Exception):
    """What is wrong with the text, as a predicate: "is empty", "is cut off after …"."""


def items_of(file: BinaryIO, list_key: str) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of the object in ``file``, but each item of ``list_key`` on its own.

    Raises `BadJson` for anything but one whole object in which ``list_key`` is a list.
    """
    text = _Text(file)
    if text.next() != "{":
        raise BadJson(f'is not a JSON object with "{list_key}"' if text.next() else "is empty")
    found = items = 0
    try:
        for _ in text.elements("{", "}"):
            key = text.value()
            if not isinstance(key, str):
                raise BadJson(f"is not JSON: a key before character {text.place} is not a string")
            text.expect(":")
            if key != list_key:
                yield key, text.value()
                continue
            found += 1
            if found > 1 or text.next() != "[":
                wrong = "appears twice" if found > 1 else "is not a list"
                raise BadJson(f'is unusable: "{list_key}" {wrong}')
            for _ in text.elements("[", "]"):
                yield key, text.value()
                items += 1
    except EOFError as error:
        raise BadJson(f"is cut off or not JSON at its end, after {items} whole items") from error
    if text.next():
        raise BadJson(f"is not JSON: it goes on after the object's end, at character {text.place}")
    if not found:
        raise BadJson(f'has no "{list_key}"')


class _Text:
    """The text of a file from the reading position on, filled up as needed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._position, self._dropped = "", 0, 0

    @property
    def place(self) -> int:
        return self._dropped + self._position

    def next(self) -> str:
        """The next character that is not white space, left in place; empty at the end."""
        while True:
            self._position = _SPACE.match(self._text, self._position).end()
            if self._position < len(self._text) or not self._fill():
                return self._text[self._position : self._position + 1]

    def expect(self, character: str) -> None:
        found = self.next()
        if not found:
            raise EOFError
        if found != character:
            raise BadJson(f"is not JSON: {found!r} for {character!r} at character {self.place}")
        self._position += 1

    def elements(self, opening: str, closing: str) -> Iterator[None]:
        """Yield before every element of an object or list; the caller reads the element."""
        self.expect(opening)
        first = True
        while self.next() != closing:
            if not first:
                self.expect(",")
            first = False
            yield
        self._position += 1

    def value(self) -> Any:
        """Read one value of any type."""
        self.next()
        while True:
            try:
                value, end = self._scan(self._text, self._position)
            except json.JSONDecodeError as error:
                cut = error.pos + LONGEST_TOKEN >= len(self._text)
                if not cut and not error.msg.startswith("Unterminated string"):
                    place = self._dropped + error.pos
                    raise BadJson(f"is not JSON: {error.msg} at character {place}") from error
                if not self._fill():
                    raise EOFError from error
            except RecursionError as error:
                raise BadJson("is nested too deeply") from error
            else:
                # A number that touches the end of the text may go on behind it.
                if end < len(self._text) or not self._fill():
                    self._position = end
                    return value

    def _fill(self) -> bool:
        """Append more text, as much again as is still unread; False at the end of the file."""
        unread = self._text[self._position :]
        data = self._file.read(max(CHUNK_BYTES, len(unread)))
        try:
            self._text = unread + self._decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise BadJson("is not JSON: it is not UTF-8 text") from error
        self._dropped, self._position = self.place, 0
        return bool(data)


def table_of(
    rows: Any, where: str, unit: str, least: int = 0, layers: Sequence[int] | None = None
) -> np.ndarray:
    """[layers, units] int64: ``rows`` as JSON has them, a list of whole numbers for each layer.

    where: of the rows, for the words; unit: what a layer has one number for; least: the smallest
    layers: the number of each row, from 0 on by default

    Raises `UserError` with layer and unit for the first value that is no number from ``least`` to
    `MOST_TOKENS`.
    """
    try:
        table = np.array([array("q", row) for row in rows])
    except (TypeError, ValueError, OverflowError):
        table = np.empty(0)
    fits = table.ndim == 2 and table.size and least <= table.min() and table.max() <= MOST_TOKENS
    # JSON's true passes for the integer 1.
    if not fits or (table.min() <= 1 and bool in map(type, chain.from_iterable(rows))):
        raise UserError(f"{where}{next(_faults(rows, unit, least, layers))}")
    return table


def _faults(rows: Any, unit: str, least: int, layers: Sequence[int] | None) -> Iterator[str]:
    """What `table_of` refuses ``rows`` for."""
    if not isinstance(rows, list) or not rows:
        yield " is not a list of layers; every layer needs a list of whole numbers"
    numbers = layers or range(len(rows))
    for layer, row in zip(numbers, rows, strict=True):
        if not isinstance(row, list) or not row:
            yield f", layer {layer} is not a list of whole numbers, one per {unit}"
        if len(row) != len(rows[0]):
            found = f"{len(row)} {unit}s, layer {numbers[0]} has {len(rows[0])}"
            yield f", layer {layer} has {found}; every layer must have the same number"
        for place, number in enumerate(row):
            if type(number) is not int or not least <= number <= MOST_TOKENS:
                shown = json.dumps(number, default=str)
                shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
                limits = f"they must be integers from {least} to {MOST_TOKENS}"
                yield f", layer {layer}, {unit} {place} is {shown}; {limits}"

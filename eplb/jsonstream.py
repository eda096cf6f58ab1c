"""Large JSON objects read piece by piece, with the standard library's decoder.

Covered: one object in a UTF-8 file, of which one key holds a long list whose items come one at a
time; at most one item and one chunk of text are in memory. Not covered: any other top level.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

CHUNK_BYTES = 1 << 20
# The decoder reports a token that was cut by the end of the text at the token's start, and the
# longest token but strings is "-Infinity"; strings have a message of their own.
LONGEST_TOKEN = 16
_SPACE = re.compile(r"[ \t\n\r]*")


class BadJson(Exception):
    """What is wrong with the text, as a predicate: "is empty", "is cut off after …"."""


def items_of(
    file: BinaryIO, list_key: str, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of the object in ``file``, but each item of ``list_key`` on its own.

    progress: called with (bytes read, bytes in the file) after every chunk

    Raises `BadJson` for anything but one whole object in which ``list_key`` is a list.
    """
    text = _Text(file, progress)
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

    def __init__(self, file: BinaryIO, progress: Callable[[int, int], None] | None) -> None:
        self._file, self._progress = file, progress
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
        if self._progress and data:
            self._progress(self._file.tell(), os.fstat(self._file.fileno()).st_size)
        return bool(data)

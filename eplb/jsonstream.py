"""Large JSON objects read piece by piece, with the standard library's decoder.

Covered: one object in a UTF-8 file, of which one key holds a long list whose items come one at a
time; at most one item and one chunk of text are in memory. Not covered: any other top level.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

CHUNK_BYTES = 1 << 20

# The decoder reports a token that was cut by the end of the text at the token's start, and the
# longest token but strings is "-Infinity"; strings have a message of their own.
LONGEST_TOKEN = 16

WHITESPACE = " \t\n\r"


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
    if text.next_character() == "":
        raise BadJson("is empty")
    if text.next_character() != "{":
        raise BadJson(f'is not a JSON object with "{list_key}"')
    found = False
    for _ in text.elements("{", "}"):
        key = text.value()
        if not isinstance(key, str):
            raise BadJson(f"is not JSON: a key before {text.place()} is not a string")
        text.expect(":")
        if key != list_key:
            yield key, text.value()
            continue
        if found:
            raise BadJson(f'has "{list_key}" twice')
        found = True
        if text.next_character() != "[":
            raise BadJson(f'is unusable: "{list_key}" is not a list')
        for _ in text.elements("[", "]"):
            yield key, text.value()
            text.items_read += 1
    if text.next_character() != "":
        raise BadJson(f"is not JSON: it goes on after the object's end, at {text.place()}")
    if not found:
        raise BadJson(f'has no "{list_key}"')


class _Text:
    """The text of a file from the reading position on, filled up as needed."""

    def __init__(self, file: BinaryIO, progress: Callable[[int, int], None] | None) -> None:
        self._file = file
        self._progress = progress
        self._size = os.fstat(file.fileno()).st_size
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder()
        self._text = ""
        self._position = 0
        self._characters_dropped = 0
        self._bytes_read = 0
        self.items_read = 0

    def place(self) -> str:
        return f"character {self._characters_dropped + self._position}"

    def next_character(self) -> str:
        """The next character that is not white space, left in place; empty at the end."""
        while True:
            rest = len(self._text)
            while self._position < rest and self._text[self._position] in WHITESPACE:
                self._position += 1
            if self._position < rest:
                return self._text[self._position]
            if not self._fill():
                return ""

    def expect(self, character: str) -> None:
        found = self.next_character()
        if found == "":
            raise self._cut_off()
        if found != character:
            raise BadJson(f"is not JSON: {found!r} for {character!r} at {self.place()}")
        self._position += 1

    def elements(self, opening: str, closing: str) -> Iterator[None]:
        """Yield before every element of an object or list; the caller reads the element."""
        self.expect(opening)
        if self.next_character() == closing:
            self._position += 1
            return
        while True:
            yield
            if self.next_character() == closing:
                self._position += 1
                return
            self.expect(",")

    def value(self) -> Any:
        """Read one value of any type."""
        self.next_character()
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                cut = error.pos + LONGEST_TOKEN >= len(self._text)
                if not cut and not error.msg.startswith("Unterminated string"):
                    self._position = error.pos
                    raise BadJson(f"is not JSON: {error.msg} at {self.place()}") from error
                if not self._fill():
                    raise self._cut_off() from error
            except RecursionError as error:
                raise BadJson("is nested too deeply") from error
            else:
                # A number that touches the end of the text may go on behind it.
                if end < len(self._text) or not self._fill():
                    self._position = end
                    return value

    def _cut_off(self) -> BadJson:
        return BadJson(f"is cut off or not JSON at its end, after {self.items_read} whole items")

    def _fill(self) -> bool:
        """Append more text, as much again as is still unread; False at the end of the file."""
        unread = self._text[self._position :]
        data = self._file.read(max(CHUNK_BYTES, len(unread)))
        try:
            more = self._utf8.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise BadJson("is not JSON: it is not UTF-8 text") from error
        self._characters_dropped += self._position
        self._text, self._position = unread + more, 0
        self._bytes_read += len(data)
        if self._progress and data:
            self._progress(self._bytes_read, self._size)
        return bool(data)

"""A file or folder handed in by the user, looked into once however many formats ask about it.

Covered: JSON, npy, npz and torch files as Python objects, text, all of them gzipped or with a
byte-order mark, and a description of what was found for the message of a refusal. Not covered:
what the content means (the formats' modules).
"""

from __future__ import annotations

import codecs
import gzip
import json
import pickle
import re
import shutil
import tempfile
import warnings
import zipfile
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np

from eplb.common import UserError

HEAD_BYTES = 1 << 16


class Source:
    """The path of a recording or placement, and what its content shows.

    path: as given, for messages; file: what to read, the unpacked copy of a gzipped file
    """

    def __init__(self, path: Path) -> None:
        self.path = self.file = Path(path)
        if not self.path.exists():
            raise UserError(f"{path} does not exist; check the path")
        if self.head.startswith(b"\x1f\x8b"):
            self._folder = tempfile.TemporaryDirectory(prefix="eplb-")
            self.file = Path(self._folder.name) / self.path.stem
            try:
                with gzip.open(self.path) as packed, self.file.open("wb") as file:
                    shutil.copyfileobj(packed, file)
            except (EOFError, OSError) as error:
                raise UserError(f"{self} is truncated or not gzip ({error})") from error
            del self.head

    def __str__(self) -> str:
        return str(self.path)

    @property
    def is_folder(self) -> bool:
        return self.path.is_dir()

    def files(self, name: re.Pattern) -> dict[Path, re.Match]:
        """The folder's files whose whole name matches, in order, with the match; none of a file."""
        # Path.glob finds nothing in a folder that cannot be read, where this raises.
        paths = sorted(self.path.iterdir()) if self.is_folder else []
        matches = {path: name.fullmatch(path.name) for path in paths}
        return {path: match for path, match in matches.items() if match}

    @cached_property
    def head(self) -> bytes:
        """The first bytes of a file, without byte-order mark; nothing of a folder."""
        if self.is_folder:
            return b""
        with self.file.open("rb") as file:
            return file.read(HEAD_BYTES).removeprefix(codecs.BOM_UTF8)

    @cached_property
    def text(self) -> str:
        """The file as text; `UserError` where it is none."""
        try:
            return self.file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{self} is not UTF-8 text ({error.reason}); convert it") from error

    @property
    def looks_like_json(self) -> bool:
        return self.head.lstrip()[:1] in (b"{", b"[")

    @cached_property
    def content(self) -> object:
        """What a JSON, npy, npz or torch file holds; None for anything else.

        Raises `UserError` for such a file that is broken, or holds pickled objects.
        """
        if self.looks_like_json:
            return self._json()
        if self.head.startswith((b"PK", b"\x93NUMPY", b"\x80")):
            return self._archive()
        return None

    def has(self, key: str) -> bool:
        """Whether the content is a dictionary with ``key``."""
        return isinstance(self.content, dict) and key in self.content

    def _json(self) -> object:
        """The one object, or a list of those of several lines.

        A last line that is cut off, as of a recording under way, is left out.
        """
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            *lines, last = self.text.splitlines()
            objects = []
            with suppress(ValueError, RecursionError):
                objects += [json.loads(line) for line in lines if line.strip()]
                objects.append(json.loads(last))
            if objects:
                return objects
            raise UserError(f"{self} is not valid JSON ({error}); copy it again") from error

    def _archive(self) -> object:
        """numpy's and torch's files; torch is imported for the latter only."""
        try:
            is_torch = self.head.startswith(b"\x80")
            if self.head.startswith(b"PK"):
                with zipfile.ZipFile(self.file) as archive:
                    is_torch = any(name.endswith("data.pkl") for name in archive.namelist())
            if not is_torch:
                loaded = np.load(self.file, allow_pickle=False)
                return dict(loaded) if hasattr(loaded, "files") else loaded
            import torch

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.load(self.file, weights_only=True, map_location="cpu")
        except (pickle.UnpicklingError, ValueError) as error:
            raise UserError(
                f"{self} holds Python objects, which could run any code and are not loaded, or is "
                f"cut; save plain arrays or tensors, bare or in a dictionary"
            ) from error
        # torch's unpickler raises whatever it stumbles over in bytes that are no pickle.
        except Exception as error:
            words = f"is truncated or no archive of arrays ({type(error).__name__}); copy it again"
            raise UserError(f"{self} {words}") from error

    def describe(self) -> str:
        """What is in it, in a few words."""
        if self.is_folder:
            return f"a folder of {_some(path.name for path in sorted(self.path.iterdir()))}"
        if not self.head:
            return "an empty file"
        if self.head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "UTF-16 text (save it as UTF-8)"
        content = self.content
        if isinstance(content, dict):
            return f"a dictionary of {_some(map(str, content))}"
        if content is not None:
            shape = getattr(content, "shape", None)
            return f"a {type(content).__name__}" + (f" of {list(shape)}" if shape else "")
        start = self.head.decode(errors="replace").strip()[:40].splitlines()[:1]
        return f"a file that begins with {start[0]!r}" if start else "a file of empty lines"


def _some(names, most: int = 5) -> str:
    names = list(names)
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "") or "nothing"

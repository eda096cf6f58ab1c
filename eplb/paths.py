"""Where the project's own files are: in the source tree, or else in the installed package."""

from __future__ import annotations

from pathlib import Path

from eplb.errors import UserError

SOURCE_TREE = Path(__file__).resolve().parent.parent
# A wheel carries its copies here, inside the package: one folder to hide from a candidate. An
# editable install may hold stale copies, hence the source tree comes first.
WHEEL_DATA = Path(__file__).resolve().parent / "_task"


def project_file(name: str) -> Path:
    """The absolute path of a project file or folder, e.g. ``expert-load.json``.

    Raises `UserError` where neither the source tree nor the installed package has it.
    """
    places = [WHEEL_DATA]
    if (SOURCE_TREE / "pyproject.toml").is_file():
        places.insert(0, SOURCE_TREE)
    for place in places:
        if (place / name).exists():
            return place / name
    looked = " and ".join(str(place) for place in places)
    raise UserError(f"{name} is missing (looked in {looked}); install the project again")

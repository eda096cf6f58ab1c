"""Every test's surroundings."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# On a test server the same examples every time: a failure there is the change's, not the draw's.
settings.register_profile("server", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("server")

# These take longest, and a worker that began one of them last would end alone.
FIRST = ("evolution/slurm/", "evolution/test_run.py", "sandbox/test_cheats.py")


def pytest_configure(config: pytest.Config) -> None:
    # pytest-xdist's own order begins with the files of many tests, which are the quick ones.
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        file = item.nodeid.removeprefix("tests/")
        return next((n for n, name in enumerate(FIRST) if file.startswith(name)), len(FIRST))

    items.sort(key=place)

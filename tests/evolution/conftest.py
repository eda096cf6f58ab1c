"""Fixtures of the evolution's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from shinka.model_availability import PROVIDER_ENV_REQUIREMENTS

from tests.evolution.recorded import finished_run, recorder

__all__ = ["finished_run", "recorder"]


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No provider's key in the environment, and none in a file of the working folder."""
    for names in PROVIDER_ENV_REQUIREMENTS.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

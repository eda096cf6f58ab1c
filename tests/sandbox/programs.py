"""The honest program, and the folder of those that add to it."""

from __future__ import annotations

from pathlib import Path

CHEATS = Path(__file__).parent / "cheats"
HONEST = (CHEATS / "honest.py").read_text()

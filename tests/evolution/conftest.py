"""Fixtures of the evolution's tests."""

from tests.evolution.recorded import finished_run, recorder

__all__ = ["finished_run", "recorder"]

"""Recorded results folders, and a real browser to look at pages with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.evolution.recorded import finished_run, recorder

__all__ = ["finished_run", "recorder"]


@dataclass
class Visit:
    """What a browser made of a page.

    dom: the document after the scripts ran
    requests: addresses that the page asked the network for
    console: what the browser had to say, such as script errors and refused loads
    """

    dom: str
    requests: list[str]
    console: list[str]


FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--enable-logging=stderr"
).split()


@dataclass(frozen=True)
class Browser:
    """A headless chromium."""

    command: str
    scratch: Path

    def visit(self, page: Path, *flags: str) -> Visit:
        """Open ``page`` in a fresh profile, without name resolution, and say what happened."""
        log = self.scratch / "net.json"
        profile = self.scratch / "profile"
        shutil.rmtree(profile, ignore_errors=True)
        ended = subprocess.run(
            [
                self.command,
                *FLAGS,
                f"--user-data-dir={profile}",
                f"--log-net-log={log}",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                *flags,
                "--dump-dom",
                page.resolve().as_uri(),
            ],
            capture_output=True,
            timeout=120,
            check=True,
        )
        errors = ended.stderr.decode("utf-8", "replace").splitlines()
        return Visit(
            dom=ended.stdout.decode("utf-8"),
            requests=_page_requests(log.read_text(encoding="utf-8")),
            console=[line for line in errors if "CONSOLE" in line],
        )


def _page_requests(log: str) -> list[str]:
    """Addresses in a network log, but for those that the browser asks for on its own account."""
    try:
        events = json.loads(log)
    except ValueError:
        # A browser that is in a hurry to leave does not close the list.
        events = json.loads(log.rstrip().rstrip(",") + "]}")
    started = events["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    asked = [e["params"] for e in events["events"] if e["type"] == started and "params" in e]
    return [p["url"] for p in asked if "url" in p and p.get("initiator") != "not an origin"]


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    names = ("chromium", "chromium-browser", "google-chrome")
    command = next(filter(None, map(shutil.which, names)), None)
    if command is None:
        if os.environ.get("EPLB_REQUIRE_BROWSER") == "1":
            pytest.fail("EPLB_REQUIRE_BROWSER=1, but no chromium is installed")
        pytest.skip("no chromium is installed; EPLB_REQUIRE_BROWSER=1 makes this a failure")
    scratch = tmp_path / "browser"
    scratch.mkdir()
    return Browser(command, scratch)

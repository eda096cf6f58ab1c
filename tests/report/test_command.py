"""The command, and ShinkaEvolve's own viewer on the same folder.

Run it with `pytest tests/report/test_command.py`.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest

from eplb.report.program import read


def report(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "eplb.report", *arguments], capture_output=True, text=True
    )


def test_writes_the_page_into_the_results_folder(finished_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "copy")
    ended = report(folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.strip() == str(folder / "report.html")
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_writes_elsewhere(finished_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "new folder" / "page.html"
    assert report(finished_run, "--output", output).returncode == 0
    assert "</html>" in output.read_text(encoding="utf-8")
    assert not (finished_run / "report.html").exists()


@pytest.mark.parametrize("kind", ["nowhere", "empty", "noise"])
def test_mistakes_are_one_line_and_status_2(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / kind
    if kind != "nowhere":
        folder.mkdir()
    if kind == "noise":
        (folder / "programs.sqlite").write_bytes(b"noise" * 1000)
    ended = report(folder)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1
    assert str(folder) in ended.stderr
    assert not (folder / "report.html").exists()


def test_output_that_cannot_be_written(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = report(finished_run, "--output", tmp_path / "file" / "page.html")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1


# ShinkaEvolve's viewer listens on all interfaces; a test should be heard on this machine only.
VIEWER = """
import socketserver
bind = socketserver.TCPServer.server_bind

def bind_to_loopback(server):
    server.server_address = ("127.0.0.1", server.server_address[1])
    bind(server)

socketserver.TCPServer.server_bind = bind_to_loopback
from shinka.webui.visualization import main
main()
"""


def fetch(address: str, process: subprocess.Popen) -> list:
    """Ask until the viewer has started."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError) or time.monotonic() > deadline:
                raise
            assert process.poll() is None, "the viewer has ended"
            time.sleep(0.2)


def test_shinka_visualize_shows_the_same_folder(finished_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "results" / "copy")
    assert report(folder).returncode == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    viewer = subprocess.Popen(
        [sys.executable, "-c", VIEWER, str(tmp_path / "results"), "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        [database] = fetch(f"{address}/list_databases", viewer)
        programs = fetch(f"{address}/get_programs?db_path={quote(database['path'])}", viewer)
    finally:
        viewer.kill()
        viewer.wait()
    shown = {p["id"]: p["combined_score"] for p in programs if not p.get("is_failed_proposal")}
    ours = read(folder)
    assert {p.id for p in ours.programs} <= set(shown)
    assert len(shown) <= len(ours.programs) + len(ours.failed_proposals)
    for program in ours.programs:
        if program.correct:
            assert shown[program.id] == program.score

"""The page in a real browser: right numbers, no request, no script error, nothing injected.

Run it with `pytest tests/report/test_browser.py`.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eplb.report.page import render
from eplb.report.program import read
from tests.report.by_hand import hostile_run
from tests.report.conftest import Browser
from tests.report.document import Document, is_close


@pytest.fixture
def trap() -> Iterator[tuple[str, list[str]]]:
    """A server on loopback that no page may ask for anything: its address, and what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def write_page(folder: Path, path: Path) -> Path:
    path.write_text(render(read(folder), time.time()), encoding="utf-8")
    return path


def query(folder: Path, sql: str) -> list[tuple]:
    uri = f"file:{folder}/programs.sqlite?immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as database:
        return database.execute(sql).fetchall()


def test_the_browser_sees_what_the_database_says(
    finished_run: Path, browser: Browser, tmp_path: Path
) -> None:
    seen = browser.visit(write_page(finished_run, tmp_path / "page.html"))
    assert seen.requests == [] and seen.console == []
    document = Document.of(seen.dom)

    [(best, best_id)] = query(
        finished_run,
        "SELECT combined_score, id FROM programs WHERE correct ORDER BY 1 DESC LIMIT 1",
    )
    assert is_close(document.ids["best-score"], best)
    [(total,)] = query(finished_run, "SELECT count(*) FROM programs")
    assert document.ids["program-count"] == str(total - 1), (
        "the seed's copy is no program of its own"
    )
    assert len(document.tables["program-table"]) == total + 1
    scores = query(finished_run, "SELECT combined_score FROM programs WHERE correct")
    shown = [cell for cell in document.column("program-table", "Score") if cell != "failed"]
    assert sorted(shown) == sorted(f"{score:.4f}" for (score,) in scores)

    moves = query(
        finished_run,
        """SELECT json_extract(value, '$.from'), json_extract(value, '$.to')
           FROM programs, json_each(migration_history)""",
    )
    assert moves
    for end, heading in enumerate(("Departures", "Arrivals")):
        counts = [str(sum(move[end] == island for move in moves)) for island in (0, 1)]
        assert document.column("island-table", heading) == counts

    made = dict(
        query(
            finished_run,
            "SELECT json_extract(metadata, '$.model_name'), count(*) FROM programs "
            "WHERE generation > 0 GROUP BY 1",
        )
    )
    made["model-1"] += 1
    names = document.column("model-table", "Model")
    proposals = document.column("model-table", "Proposals")
    assert {name: int(n) for name, n in zip(names, proposals, strict=True)} == made

    lineage = ancestors(finished_run, best_id)
    assert [int(g) for g in re.findall(r'class="when">generation (\d+)', seen.dom)] == lineage
    assert "+STEPS = " in document.ids["seed-diff"] and "-STEPS = 0" in document.ids["seed-diff"]


def ancestors(folder: Path, identity: str) -> list[int]:
    """Generations of a program and its ancestors, oldest first, by the database alone."""
    rows = query(
        folder,
        f"""WITH RECURSIVE line(id, parent_id, generation) AS (
              SELECT id, parent_id, generation FROM programs WHERE id = '{identity}'
              UNION ALL
              SELECT p.id, p.parent_id, p.generation
              FROM programs p JOIN line ON p.id = line.parent_id)
            SELECT generation FROM line ORDER BY generation""",
    )
    return [generation for (generation,) in rows]


def test_everything_is_there_without_scripts(
    finished_run: Path, browser: Browser, tmp_path: Path
) -> None:
    page = write_page(finished_run, tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    with_scripts = Document.of(browser.visit(page).dom)
    page.write_text(re.sub(r"script-src '[^']*'", "script-src 'none'", text), encoding="utf-8")
    seen = browser.visit(page)
    assert "<button" not in seen.dom and len(seen.console) == 1, "the script was refused"
    assert Document.of(seen.dom).tables == with_scripts.tables


def test_nothing_that_a_run_says_reaches_the_network_or_runs(
    recorder, browser: Browser, tmp_path: Path, trap
) -> None:
    address, asked = trap
    payload = (
        f"</script><script>fetch('{address}/a');document.title='owned'</script>"
        f"<img src='{address}/b' onerror=\"document.title='owned'\">"
        f'</title></text></svg><svg onload="document.title=\'owned\'"><image href="{address}/c"/>'
        f"<style>@import '{address}/d'</style><link rel=stylesheet href={address}/e>"
        f"<iframe src='{address}/f'></iframe><meta http-equiv=refresh content='0;url={address}/g'>"
    )
    page = write_page(hostile_run(recorder, payload), tmp_path / "page.html")
    seen = browser.visit(page)
    assert (seen.requests, seen.console, asked) == ([], [], [])
    document = Document.of(seen.dom)
    assert document.text.split("Evolution of ")[1].startswith("results")
    assert not {"img", "iframe", "image", "link"} & set(document.tags)

    # Escaping holds alone, without the policy behind it.
    bare = tmp_path / "bare.html"
    text = page.read_text(encoding="utf-8")
    bare.write_text(re.sub(r"<meta http-equiv=[^>]*>", "", text), encoding="utf-8")
    seen = browser.visit(bare)
    assert (seen.requests, seen.console, asked) == ([], [], [])

    # And the policy holds alone, where nothing is escaped. No policy can forbid a refresh.
    raw = tmp_path / "raw.html"
    raw.write_text(unescape(text).replace("http-equiv=refresh", ""), encoding="utf-8")
    seen = browser.visit(raw)
    assert (seen.requests, asked) == ([], [])
    assert any("Content Security Policy" in line for line in seen.console)


def test_the_browser_would_notice(browser: Browser, tmp_path: Path, trap) -> None:
    """The checks above can fail: a page that asks and throws is seen to ask and throw."""
    address, asked = trap
    page = tmp_path / "page.html"
    page.write_text(f"<img src='{address}/leak'><script>throw new Error('boom')</script>")
    seen = browser.visit(page)
    assert seen.requests == [f"{address}/leak"] and asked == ["/leak"]
    assert any("boom" in line for line in seen.console)


CHECKS = """
<script>
addEventListener("load", () => {
  const table = document.getElementById("front-table");
  const cells = () => [...table.tBodies[0].rows].map((row) => row.cells[4].textContent);
  table.tHead.rows[0].cells[4].querySelector("button").click();
  const down = cells().join(" ");
  table.tHead.rows[0].cells[4].querySelector("button").click();
  const up = cells().join(" ");
  document.querySelector(".mark").dispatchEvent(new PointerEvent("pointerenter"));
  location.hash = "#program-3";
  const cut = () => {
    for (const name of document.querySelectorAll(".name")) name.textContent = "long_".repeat(24);
    const regions = [...document.querySelectorAll(".scroll")];
    return regions.filter((r) => r.scrollWidth > r.clientWidth).map((r) => r.ariaLabel);
  };
  setTimeout(() => {
    const result = document.createElement("pre");
    result.id = "checks";
    result.textContent = JSON.stringify({
      down, up,
      tip: document.getElementById("tip").textContent,
      open: document.getElementById("all-programs").open,
      wide: document.documentElement.scrollWidth > innerWidth,
      cut: cut(),
    });
    document.body.append(result);
  }, 200);
});
</script>
"""


@pytest.mark.parametrize("width", [500, 1280])
def test_sorting_tooltips_links_and_width(
    finished_run: Path, browser: Browser, tmp_path: Path, width: int
) -> None:
    page = write_page(finished_run, tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<meta http-equiv=[^>]*>", "", text).replace("</body>", CHECKS + "</body>")
    page.write_text(text, encoding="utf-8")
    flags = (f"--window-size={width},900", "--virtual-time-budget=3000")
    seen = browser.visit(page, *flags)
    assert seen.console == []
    checks = json.loads(Document.of(seen.dom).ids["checks"])
    down = [float(cell) for cell in checks["down"].split()]
    assert down == sorted(down, reverse=True) and len(set(down)) > 1
    assert [float(cell) for cell in checks["up"].split()] == sorted(down)
    assert checks["tip"].startswith("generation ")
    assert checks["open"], "a link to a program opens the table that it is in"
    assert not checks["wide"], "the page itself never scrolls sideways"
    cut = [label for label in checks["cut"] if width == 1280 or label.startswith("Figure")]
    assert cut == [], "figures fit everywhere, tables at 1280 pixels"

"""The README keeps its promises: `pytest tests/test_readme.py`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from eplb.trace import write_trace
from eplb.workload_model import PRESETS, generate

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_it_is_short():
    assert len(README.splitlines()) <= 190


def test_the_example_program_is_scored_as_it_stands(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(example.split("def ")[1].strip().splitlines()) <= 12
    program, trace, results = tmp_path / "mine.py", tmp_path / "trace.json", tmp_path / "results"
    program.write_text(example)
    write_trace(trace, generate(replace(PRESETS["tiny"], seed=1)))
    experts = generate(PRESETS["tiny"]).loads.shape[2]
    command = [sys.executable, str(ROOT / "evaluate.py"), "--program_path", str(program)]
    command += ["--trace", str(trace), "--results_dir", str(results), "--repeats", "1"]
    command += ["--num_replicas", str(experts + 8), "--num_groups", "1", "--num_nodes", "1"]
    done = subprocess.run([*command, "--num_gpus", "8"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    public = json.loads((results / "metrics.json").read_text())["public"]
    assert public["removed"] > 0.1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    for link in links:
        assert (page.parent / link).exists(), f"{page.name} links to {link}"
    paths = re.findall(r"`((?:eplb|configs|programs|tests|docs)/[\w./-]+)`", text)
    for path in paths:
        assert (ROOT / path).exists(), f"{page.name} names {path}"
    modules = re.findall(r"python -m (eplb[\w.]*)", text)
    for module in modules:
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    for script in re.findall(r"python (\w+\.py)", text):
        assert (ROOT / script).is_file() or script == "mine.py", f"{page.name}: {script}"


def test_the_map_names_what_is_there():
    """`NAME` in `file` in the table of what to change: the name stands in the file."""
    table = README[README.index("| to change |") :].split("\n\n")[0]
    for name, path in re.findall(r"`(\w+)` in `([\w./]+\.py)`", table):
        assert re.search(rf"^(def |class )?{name}\b", (ROOT / path).read_text(), re.M), name
    rooms = {path.parent.name for path in (ROOT / "eplb").glob("*/__init__.py")}
    assert rooms <= set(re.findall(r"\w+", README[README.index("## Map") :]))

"""Who imports what, between rooms and of libraries: `pytest tests/test_walls.py`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "eplb"
GROUND = {"common", "placement", "trace", "jsonstream", "loadstats", "loads", "minmax", "reference"}
# What a room may import besides itself. The catalogue's parts are programs, not modules of ours.
MAY_IMPORT = {
    "ground": set(),
    "sandbox": {"common", "placement"},
    "workload_model": GROUND,
    "throughput": GROUND,
    "evaluation": GROUND | {"sandbox", "workload_model", "throughput"},
    "evolution": GROUND | {"evaluation", "sandbox", "throughput"},
    "proposer": {"common"},
    "report": {"common", "evolution.rundb"},
    "engines": GROUND,
    "planning": GROUND | {"sandbox", "evaluation", "throughput", "engines"},
    "bench": GROUND
    | {"sandbox", "workload_model", "throughput", "evaluation", "proposer", "engines", "planning"},
}


def imported(module: Path) -> set[str]:
    """The project's modules that ``module`` imports, as ``room.module`` or ``module``."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if _is_package(node.module) else {node.module}
    return {name.removeprefix("eplb.") for name in found if name.startswith("eplb.")}


def _is_package(module: str) -> bool:
    return (PACKAGE.parent / module.replace(".", "/")).is_dir()


def room_of(module: Path) -> str:
    first = module.relative_to(PACKAGE).parts[0]
    return "ground" if first.endswith(".py") else first


def allowed(name: str, room: str) -> bool:
    parts = name.split(".")
    own = parts[0] in GROUND if room == "ground" else parts[0] == room
    return own or parts[0] in MAY_IMPORT[room] or ".".join(parts[:2]) in MAY_IMPORT[room]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_is_below_it(room):
    modules = [path for path in PACKAGE.rglob("*.py") if room_of(path) == room]
    assert modules
    wrong = {
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in modules
        for name in imported(path)
        if not allowed(name, room)
    }
    assert not wrong


def test_every_room_has_a_wall_and_a_line_on_the_map():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == set(MAY_IMPORT) - {"ground"}
    text = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text()))
    for name in rooms | GROUND:
        assert name in text


def test_the_check_sees_a_wrong_import(tmp_path):
    module = tmp_path / "wrong.py"
    module.write_text("from eplb.bench import leaderboard\nimport eplb.engines.sglang\n")
    assert imported(module) == {"bench.leaderboard", "engines.sglang"}
    assert not allowed("bench.leaderboard", "evaluation")
    assert allowed("evolution.rundb", "report") and not allowed("evolution.run", "report")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("evaluate", {"torch", "shinka", "matplotlib"}),
        ("eplb.report.__main__", {"torch", "shinka", "matplotlib", "numpy"}),
        # Hydra imports it in every Hydra application of the environment.
        ("hydra_plugins.eplb_search_path", {"torch", "shinka", "numpy"}),
    ],
)
def test_what_takes_seconds_to_import_is_left_to_those_who_need_it(module, heavy):
    code = f"import sys, {module}; print(*sys.modules)"
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert module in done.stdout.split() and not heavy & set(done.stdout.split())

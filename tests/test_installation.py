"""`shinka_launch variant=eplb_example` from any folder: editable, and as a plain wheel.

Run it with `pytest tests/test_installation.py`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.evolution.runs import ROOT

PARTS = ("pyproject.toml", "LICENSE", "README.md", "initial.py", "evaluate.py", "run_evo.py")
TREES = ("eplb", "hydra_plugins", "configs", "programs")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the project: installing writes into the tree."""
    for builder in ("hatchling", "editables", "pip"):
        if importlib.util.find_spec(builder) is None:
            pytest.skip(f"{builder} is not installed: pip install -e .[test]")
    source = tmp_path_factory.mktemp("source")
    for name in PARTS:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    for name in TREES:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, source / name)
    os.symlink(ROOT / "expert-load.json", source / "expert-load.json")
    return source


def install(folder: Path, *arguments: str) -> Path:
    """Install into a new environment that shares this one's libraries; its Python."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    scheme = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", scheme="posix_prefix", vars=scheme))
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    without = ["--no-deps", "--no-build-isolation", "--force-reinstall", "--no-index"]
    subprocess.run([*pip, *without, *arguments], check=True, cwd=folder)
    return python


def launch(python: Path, folder: Path, *overrides: str) -> str:
    """The configuration that `shinka_launch` composes, from a folder of its own."""
    folder.mkdir()
    code = "import sys; sys.argv[0] = 'shinka_launch'\nfrom shinka.cli.launch import main; main()"
    arguments = ["variant=eplb_example", *overrides, "--cfg", "job", "--resolve"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    answer = subprocess.run(
        [str(python), "-c", code, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_an_editable_install_uses_the_source_tree(source, tmp_path):
    python = install(tmp_path / "venv", "--editable", str(source))
    config = launch(python, tmp_path / "elsewhere", "offline=true")
    assert f"init_program_path: {source}/initial.py" in config
    assert f"eval_program_path: {source}/evaluate.py" in config
    assert "headless/eplb-proposer" in config
    assert f"output_dir: {tmp_path}/elsewhere/results/eplb/" in config


def test_a_plain_wheel_carries_everything(source, tmp_path):
    python = install(tmp_path / "venv", str(source))
    config = launch(python, tmp_path / "elsewhere", "evo_config.num_generations=7")
    assert "num_generations: 7" in config
    data = next((tmp_path / "venv" / "lib").glob("python*/site-packages/eplb/_task"))
    assert f"init_program_path: {data}/initial.py" in config
    assert f"eval_program_path: {data}/evaluate.py" in config
    carried = {path.name for path in data.iterdir()} - {"__pycache__"}
    assert carried == {"initial.py", "evaluate.py", "expert-load.json", "configs", "programs"}
    assert (data.parent / "proposer" / "agent.py").exists()

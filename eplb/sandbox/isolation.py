"""How the zygote is started: under bubblewrap where it is installed, by itself otherwise.

Covered: the command line, the environment, and which parts of the file system the sandbox shows:
the system's libraries and the Python installation, less the project, the trace and the results.
Not covered: what the process gives up by itself later (`eplb.sandbox.inside.confine`).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from itertools import pairwise
from pathlib import Path

from eplb.common import SOURCE_TREE

_PACKAGE = Path(__file__).resolve().parents[1]
ZYGOTE = Path(__file__).resolve().with_name("inside")

_SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_IN_PREFIX = ("bin", "lib", "lib64", "include", "pyvenv.cfg", "Python", "Resources")
# Keeps arithmetic on one thread, as it is measured; the OpenBLAS settings work around processors
# on which it would compute wrong results.
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # What torch.optim imports makes this folder if it is not there.
    "TORCHINDUCTOR_CACHE_DIR": "/",
}
_INHERITED = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def environment() -> dict[str, str]:
    """The whole environment of the sandboxed process: no key, no token, no path of the user's."""
    return _ENVIRONMENT | {name: os.environ[name] for name in _INHERITED if name in os.environ}


def plain_command(control: int) -> list[str]:
    """Start the zygote as an ordinary process that takes orders from descriptor ``control``."""
    return [sys.executable, "-s", "-B", str(ZYGOTE), str(control)]


def bubblewrap_command(control: int, hidden: list[Path]) -> list[str] | None:
    """Start the zygote in namespaces of its own; None where bubblewrap is not installed.

    hidden: files and folders that must not be seen even where they lie within what is shown
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return None
    command = [bwrap, "--unshare-all", "--die-with-parent", "--cap-drop", "ALL"]
    # The processors are for the import of torch; no program sees them.
    for path in (*_SYSTEM, *_SYSTEM_FILES, "/sys/devices/system/cpu"):
        command += ["--ro-bind-try", path, path]
    for device in _DEVICES:
        command += ["--dev-bind-try", device, device]
    python = _python_paths()
    outer = [path for path in hidden if any(folder.is_relative_to(path) for folder in python)]
    inner = [path for path in hidden if path not in outer]
    shown = [Path(path) for path in _SYSTEM]
    masks = _mask(outer, shown)
    for path in python:
        masks += ["--ro-bind", str(path), str(path)]
    masks += _mask(inner, shown + python)
    command += [*masks, "--ro-bind", str(ZYGOTE), str(ZYGOTE), "--proc", "/proc"]
    # A program could leave marks for the next one even on an empty folder.
    empty = [path for kind, path in pairwise(masks) if kind == "--tmpfs"]
    for path in (*empty, "/proc", "/"):
        command += ["--remount-ro", path]
    return [*command, "--chdir", "/", "--", *plain_command(control)]


def readable_paths(hidden: list[Path]) -> list[str]:
    """What a process without bubblewrap may read: the system and Python, around what is hidden."""
    paths = [Path(path) for path in (*_SYSTEM, *_SYSTEM_FILES, *_DEVICES)]
    # Landlock goes by files, not by names: a link to a folder would let in all of it.
    shown = dict.fromkeys(path.resolve() for path in paths + _python_paths() if path.exists())
    return [str(path) for folder in shown for path in _around(folder, hidden)]


def project_paths() -> list[Path]:
    """Where the project keeps what programs must not see, in a checkout or an installed wheel."""
    return [SOURCE_TREE if (SOURCE_TREE / "pyproject.toml").is_file() else _PACKAGE]


def _around(path: Path, hidden: list[Path]) -> list[Path]:
    """``path``, or where something in it is hidden, everything in it but that."""
    if path.is_symlink():
        return []
    inside = [other for other in hidden if other.is_relative_to(path)]
    if not inside:
        return [path]
    if path in inside:
        return []
    return [kept for entry in path.iterdir() for kept in _around(entry, inside)]


def _mask(hidden: list[Path], shown: list[Path]) -> list[str]:
    """Arguments that put an empty folder or file over each hidden path, wherever it is shown.

    One folder may be shown twice: ``lib64`` of a virtual environment is a link to ``lib``.
    """
    arguments = []
    for path in hidden:
        for folder in dict.fromkeys(shown):
            if path.exists() and path.is_relative_to(folder.resolve()):
                seen = str(folder / path.relative_to(folder.resolve()))
                empty = ["--tmpfs"] if path.is_dir() else ["--ro-bind", "/dev/null"]
                arguments += [*empty, seen]
    return arguments


def _python_paths() -> list[Path]:
    """The interpreter, the standard library and the folders that torch and numpy come from.

    A prefix is shown in parts, since a virtual environment may be the project's own folder.
    """
    paths = []
    for prefix in dict.fromkeys((sys.prefix, sys.base_prefix, sys.exec_prefix)):
        # The name by which the interpreter finds itself and the place behind it may differ.
        for root in dict.fromkeys((Path(prefix), Path(prefix).resolve())):
            paths += [root / part for part in _IN_PREFIX if (root / part).exists()]
    for package in ("torch", "numpy"):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            paths.append(Path(spec.origin).parent.parent)
    paths.append(Path(sys.executable).resolve().parent)
    return [path for path in dict.fromkeys(paths) if not path.is_relative_to(_SYSTEM[0])]

"""What every room needs: the user's mistakes, exit statuses, arguments, whole-file writes.

Covered: how a command ends and what it prints then, types of arguments, files that are written
whole or not at all, where the project's own files are, and the Pareto front. Not covered: anything
about experts.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

Item = TypeVar("Item")

DONE, FAILED, MISUSED = 0, 1, 2
PLOT_SUFFIXES = (".png", ".svg", ".pdf")


class UserError(Exception):
    """Something the user can put right; the message names the file or value and the way out."""


def nearest(key: str, known: Iterable[str]) -> str:
    """A question for the known key most like ``key``, by its whole or by its last part."""
    last = {name.rpartition(".")[2]: name for name in sorted(known, reverse=True)}
    names = {name: name for name in known} | last
    close = difflib.get_close_matches(key, names, n=1)
    close = close or difflib.get_close_matches(key.rpartition(".")[2], last, n=1)
    return f"; did you mean {names[close[0]]}?" if close else ""


def printable(text: str, longest: int) -> str:
    """``text`` on one line without control characters, at most ``longest`` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


class ArgumentParser(argparse.ArgumentParser):
    """Wrong arguments are a `UserError`: one line, where argparse prints its usage too.

    Options are written out: what is short today may mean two things tomorrow.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")

    def print_help(self, file=None):
        # argparse goes on where the help cannot be written.
        print(self.format_help(), end="", file=file)


def exit_on_user_error(main: Callable[[], int]) -> None:
    """Run a command's ``main`` and leave with its status; a `UserError` becomes one line and 2."""
    for closed in (name for name in ("stdout", "stderr") if getattr(sys, name) is None):
        setattr(sys, closed, open(os.devnull, "w"))
    try:
        try:
            status = main()
        except SystemExit as left:  # --help
            status = left.code
        # Here, so that a full disk is told of like anything else.
        sys.stdout.flush()
    except UserError as error:
        status = _told(str(error))
    except BrokenPipeError:
        # The reader of our output went away (`… | head`).
        _drop_output()
        status = 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _drop_output()
        status = _told(f"cannot write the output: {error.strerror}; make room")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 128 + signal.SIGINT
    sys.exit(status)


def _told(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return MISUSED


def _drop_output() -> None:
    """What is still buffered fails once more when Python flushes at exit: let it go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_earlier_hook = sys.excepthook


def tell_missing_packages(kind: type, error: BaseException, traceback) -> None:
    """`sys.excepthook`: a command of this project that lacks a package says how to get it."""
    command = Path(getattr(sys.modules["__main__"], "__file__", None) or "/").resolve()
    ours = command.parent == SOURCE_TREE or WHEEL_DATA.parent in command.parents
    if not ours or not isinstance(error, ModuleNotFoundError) or not error.name:
        _earlier_hook(kind, error, traceback)
        return
    way_out = f"run it with this project's environment, or: pip install -e {SOURCE_TREE}"
    sys.exit(_told(f"{sys.executable} has no package {error.name}; {way_out}"))


@contextmanager
def progress_bar(doing: str) -> Iterator[Callable[[float], None]]:
    """Yield a function that takes the share done; it draws on a terminal and else does nothing."""
    from tqdm import tqdm

    shape = "{desc} {percentage:3.0f}% |{bar}| {elapsed}"
    with tqdm(total=1.0, desc=doing, bar_format=shape, leave=False, disable=None) as bar:
        yield lambda share: bar.update(share - bar.n)


def reading(items: Iterable[Item], file: BinaryIO) -> Iterator[Item]:
    """``items``, which come out of ``file``, under a bar that shows how much of it is read."""
    size = os.fstat(file.fileno()).st_size
    with progress_bar("reading") as progress:
        for item in items:
            if size:  # a pipe has none, and no place either
                progress(file.tell() / size)
            yield item


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block succeeds.

    A reader sees the old file or the new one, never a part; when the block raises, the old file
    stays as it was. Raises `UserError` where the folder cannot be written.
    """
    path, partial = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = {"prefix": f".{path.name}.", "suffix": path.suffix, "dir": path.parent}
        handle, name = tempfile.mkstemp(**beside)
        os.close(handle)
        partial = Path(name)
        yield partial
        # mkstemp keeps the file to its owner; an output file follows the umask like any other.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)
        os.replace(partial, path)
    except OSError as error:
        raise _unwritable(path, error.strerror) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise `UserError` where a file ``path`` could not be written; asked before long work."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise _unwritable(path, f"{folder} is a file")
    try:
        # Asking for permission is not enough: root has every one, and /proc takes no file.
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _unwritable(path, error.strerror) from error


def _unwritable(path: Path, reason: str) -> UserError:
    return UserError(f"cannot write {path}: {reason}; choose another folder")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def positive_int(text: str) -> int:
    """An argument that counts something, for ``type=`` of argparse."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def positive_seconds(text: str) -> float:
    """An argument that is a span of time, for ``type=`` of argparse."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return seconds


def path_argument(text: str) -> Path:
    """An argument that names a file or folder, for ``type=`` of argparse; "" is the current one."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty, and must name a file or folder")
    try:
        Path(text).exists()
    except OSError as error:  # a name that is too long, a folder that keeps others out
        raise argparse.ArgumentTypeError(f"cannot use {text}: {error.strerror}") from error
    return Path(text)


def output_argument(text: str) -> Path:
    """An argument that names a file to write: refused before the work, not after it."""
    path = path_argument(text)
    check_writable(path)
    return path


def plot_argument(text: str) -> Path:
    """The same for a picture, whose suffix says in which format."""
    path = output_argument(text)
    if path.suffix not in PLOT_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text} ends in none of {', '.join(PLOT_SUFFIXES)}")
    return path


SOURCE_TREE = Path(__file__).resolve().parent.parent
# A wheel carries its copies here, inside the package: one folder to hide from a candidate. An
# editable install may hold stale copies, hence the source tree comes first.
WHEEL_DATA = Path(__file__).resolve().parent / "_task"


def project_file(name: str) -> Path:
    """The absolute path of a project file or folder, e.g. ``expert-load.json``.

    Raises `UserError` where neither the source tree nor the installed package has it.
    """
    places = [WHEEL_DATA]
    if (SOURCE_TREE / "pyproject.toml").is_file():
        places.insert(0, SOURCE_TREE)
    for place in places:
        if (place / name).exists():
            return place / name
    looked = " and ".join(str(place) for place in places)
    raise UserError(f"{name} is missing (looked in {looked}); install the project again")


def pareto_front(
    points: Iterable[Item], gains: Callable[[Item], tuple[float, float]]
) -> list[Item]:
    """The points that no other beats in both of their ``gains``, largest first gain first."""
    best: list[Item] = []
    for point in sorted(points, key=gains, reverse=True):
        if not best or gains(point)[1] > gains(best[-1])[1]:
            best.append(point)
    return best

"""The windows that vLLM hands its policy, kept as load statistics.

Covered: a file per model, told apart by its sizes, of whole lines that grow to a bound and then
lose their older half. Two models of equal sizes share a file. Not covered: two servers that write
to one folder.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from eplb import loadstats
from eplb.common import UserError, replacing
from eplb.placement import Deployment

MOST_BYTES = 256 << 20  # of a file: some 1,500 windows of 58 layers of 256 experts

logger = logging.getLogger("vllm.plugins.eplb")


class Recorder:
    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"EPLB_VLLM_RECORD={folder} is a file; name a folder")
        self._folder = folder
        self._most_bytes = most_bytes
        self._last: dict[tuple[int, ...], np.ndarray] = {}
        self._steps = 0

    def add(self, load: np.ndarray, deployment: Deployment) -> None:
        """Append the window ``load`` [layers, experts] on the first rank, if it is a new one.

        A change of a server's size brings the last window again. What cannot be written is logged:
        a recording is no reason to stop serving.
        """
        if not is_first_rank():
            return
        last = self._last.get(load.shape)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not is_window(load) or np.array_equal(load, last):
                return
            line = loadstats.line_of(load, self._steps, deployment).encode()
            path = self._folder / f"load_{load.shape[0]}x{load.shape[1]}{loadstats.SUFFIX}"
            append(path, line, self._most_bytes)
        except (OSError, UserError) as error:
            logger.error("EPLB_VLLM_RECORD: cannot record to %s: %s", self._folder, error)
            return
        self._last[load.shape] = load
        self._steps += 1


def is_window(load: np.ndarray) -> bool:
    """Whether ``load`` [layers, experts] was counted.

    The profiling call brings zeros, and the change of a server's size before its first window ones.
    """
    return bool(load.min() < load.max())


def is_first_rank() -> bool:
    """Whether this process is the first of its expert-parallel group and pipeline."""
    from vllm.distributed.parallel_state import get_ep_group, get_pp_group

    return get_ep_group().rank_in_group == 0 and get_pp_group().rank_in_group == 0


def append(path: Path, line: bytes, most_bytes: int) -> None:
    """Add ``line`` to ``path`` whole or not at all; raises OSError.

    Where the file would pass ``most_bytes``, its older half goes first. A last line that a crash
    has cut goes as well.
    """
    size = path.stat().st_size if path.exists() else 0
    if size and (size + len(line) > most_bytes or not _ends_whole(path)):
        kept = [each for each in path.read_bytes().splitlines(True) if each.endswith(b"\n")]
        if size + len(line) > most_bytes:
            kept = kept[len(kept) // 2 + 1 :]
        with replacing(path) as partial:
            partial.write_bytes(b"".join(kept))
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        before = os.fstat(handle).st_size
        if os.write(handle, line) != len(line):
            os.ftruncate(handle, before)
            raise OSError(f"no space left for {path}")
    finally:
        os.close(handle)


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"

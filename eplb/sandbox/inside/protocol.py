"""What the evaluator and a sandboxed process say to each other.

A control socket carries JSON messages and file descriptors between the evaluator and the zygote.
Each forked child then has two pipes of its own, on which single bytes say "go" and "done", and two
shared memories: the window going in and the three maps coming out. Imported by both sides, so it
uses nothing but numpy and the standard library. Not covered: what is done with the messages.
"""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Sequence

import numpy as np

GO, STOP = b"g", b"s"
CONFINED, LOADED, DONE, FAILED = b"C", b"L", b"D", b"F"
# How much is read of what a process says of a failure.
TEXT_LIMIT = 8192

MAPS = ("phy2log", "log2phy", "logcnt")
MAX_DIMENSIONS = 3
# Per map: the number of dimensions, then their sizes.
HEADER = np.dtype((np.int64, (len(MAPS), 1 + MAX_DIMENSIONS)))


def send(control: socket.socket, message: dict, descriptors: Sequence[int] = ()) -> None:
    """Send ``message`` and copies of ``descriptors``."""
    payload = json.dumps(message).encode()
    length = len(payload).to_bytes(8, "big")
    if descriptors:
        socket.send_fds(control, [length], descriptors)
    else:
        control.sendall(length)
    control.sendall(payload)


def receive(control: socket.socket, max_descriptors: int = 0) -> tuple[dict, list[int]]:
    """Receive one message and its descriptors; raise `EOFError` when the other side is gone."""
    length, descriptors, _, _ = socket.recv_fds(control, 8, max_descriptors)
    length += _receive_exactly(control, 8 - len(length)) if length else b""
    if not length:
        raise EOFError
    return json.loads(_receive_exactly(control, int.from_bytes(length, "big"))), descriptors


def _receive_exactly(control: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = control.recv(min(size - len(data), 1 << 16))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def widest(experts: int, num_replicas: int) -> int:
    """The most slots that an expert can have: what the others leave, with one each."""
    return max(1, num_replicas - experts + 1)


def answer_capacity(layers: int, experts: int, num_replicas: int) -> int:
    """Bytes that the largest valid answer takes."""
    cells = layers * (num_replicas + experts * widest(experts, num_replicas) + experts)
    return HEADER.itemsize + 8 * cells


def write_maps(memory: memoryview, maps: list[np.ndarray]) -> None:
    """Write three int64 arrays; raise `ValueError` naming the map that does not fit."""
    header = np.zeros(HEADER.shape, np.int64)
    offset = HEADER.itemsize
    for row, name, array in zip(header, MAPS, maps, strict=True):
        if array.ndim > MAX_DIMENSIONS or offset + array.nbytes > len(memory):
            raise ValueError(f"{name} of shape {list(array.shape)} is larger than any valid map")
        row[0], row[1 : 1 + array.ndim] = array.ndim, array.shape
        target = np.frombuffer(memory, np.int64, array.size, offset).reshape(array.shape)
        np.copyto(target, array)
        offset += array.nbytes
    np.frombuffer(memory, np.int64, header.size).reshape(header.shape)[:] = header


def erase_maps(memory: memoryview, maps: list[np.ndarray]) -> None:
    """Erase an answer of these maps, and leave nothing that reads as the next one."""
    np.frombuffer(memory, np.uint8, HEADER.itemsize + sum(array.nbytes for array in maps)).fill(0)
    memory[: HEADER.itemsize] = b"\xff" * HEADER.itemsize


def read_maps(memory: memoryview) -> list[np.ndarray]:
    """Copy the three arrays out; raise `ValueError` if what stands there is not an answer.

    The other side may be hostile and may write while we read: the header is copied before it is
    looked at, and every size is checked against the memory.
    """
    header = np.frombuffer(memory, np.int64, HEADER.itemsize // 8).reshape(HEADER.shape).tolist()
    maps = []
    offset = HEADER.itemsize
    for dimensions, *sizes in header:
        if not 0 <= dimensions <= MAX_DIMENSIONS or min(sizes) < 0:
            raise ValueError("the header of the answer makes no sense")
        shape = sizes[:dimensions]
        # No size may be beyond the memory, not even of a map without cells.
        if offset + 8 * math.prod(max(size, 1) for size in shape) > len(memory):
            raise ValueError("the answer is larger than its memory")
        maps.append(np.frombuffer(memory, np.int64, math.prod(shape), offset).reshape(shape).copy())
        offset += maps[-1].nbytes
    return maps

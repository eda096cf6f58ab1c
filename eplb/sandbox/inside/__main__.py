"""Import torch once, then fork a child for every run that the evaluator asks for.

Started as `python eplb/sandbox/inside DESCRIPTOR`, with the control socket as that descriptor. The
process itself never loads a program, and ends with the evaluator.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys

import protocol

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4


def _guard() -> None:
    """Die with the parent, and keep children from reading or writing our memory."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _import_torch() -> None:
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    import child  # noqa: F401  imported before the fork, like torch, to be there in every child

    # What is alive now lives for ever: no collection in a child will walk over it again.
    gc.collect()
    gc.freeze()


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    protocol.send(control, {"hello": os.getpid()})
    _guard()
    try:
        _import_torch()
    except ImportError as error:
        protocol.send(control, {"error": f"torch cannot be imported: {error}"})
        return
    protocol.send(control, {"ready": True})
    while True:
        try:
            request, descriptors = protocol.receive(control, max_descriptors=4)
        except EOFError:
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            _guard()
            from child import run

            run(request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        protocol.send(control, {"status": os.waitstatus_to_exitcode(status)})


main()

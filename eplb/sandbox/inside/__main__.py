"""Import torch once, then fork a child for every run that the evaluator asks for.

Started as `python eplb/sandbox/inside DESCRIPTOR`, with the control socket as that descriptor. The
process itself never loads a program, and ends with the evaluator.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Callable

import protocol
from confine import die_with_parent


def _import_torch() -> Callable:
    import tempfile

    # Importing torch wants a folder for temporary files, and there is none to write to.
    tempfile.tempdir = "/tmp"
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    from child import run

    # What is alive now lives for ever: no collection in a child will walk over it again.
    gc.collect()
    gc.freeze()
    return run


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    protocol.send(control, {"hello": os.getpid()})
    die_with_parent()
    try:
        run = _import_torch()
    except ImportError as error:
        protocol.send(control, {"error": f"torch cannot be imported: {error}"})
        return
    protocol.send(control, {"ready": True})
    zygote = os.getpid()
    # The child takes the request: what this process had in its memory, later children could read.
    while control.recv(1, socket.MSG_PEEK):
        pid = os.fork()
        if pid == 0:
            run(control, zygote)
        protocol.send(control, {"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})


main()

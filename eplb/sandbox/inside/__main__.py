"""Import torch once, then fork a child for every run that the evaluator asks for.

Started as `python eplb/sandbox/inside DESCRIPTOR`, with the control socket as that descriptor. The
process itself never loads a program, and ends with the evaluator.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys

import protocol
from confine import die_with_parent


def _import_torch() -> None:
    import tempfile

    # Importing torch wants a folder for temporary files, and there is none to write to.
    tempfile.tempdir = "/tmp"
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
    die_with_parent()
    try:
        _import_torch()
    except ImportError as error:
        protocol.send(control, {"error": f"torch cannot be imported: {error}"})
        return
    protocol.send(control, {"ready": True})
    ended, told = os.pipe()
    os.set_blocking(told, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    zygote = os.getpid()
    while True:
        try:
            request, descriptors = protocol.receive(control, max_descriptors=4)
        except EOFError:
            return
        signal.set_wakeup_fd(told)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            from child import run

            run(request, descriptors, zygote)
        for descriptor in descriptors:
            os.close(descriptor)
        protocol.send(control, {"status": _wait(pid, control, ended)})


def _wait(pid: int, control: socket.socket, ended: int) -> int:
    """The exit status of a child, which is ended when the evaluator is gone before it."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        readable, _, _ = select.select([control, ended], [], [])
        if control in readable:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            sys.exit()
        os.read(ended, 1)


main()

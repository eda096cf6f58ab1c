"""One run of one program: load it, answer windows one at a time, and say nothing else.

This runs in the same process as the untrusted program, which can therefore change all of it. No
rule is enforced here: the evaluator keeps the clock, checks every answer and holds everything
worth stealing. What this module does is to call the program and to put its failures into words.
"""

from __future__ import annotations

import inspect
import json
import linecache
import mmap
import os
import socket
import sys
import traceback
import types
from collections.abc import Callable

import numpy as np
import protocol
import torch
from confine import confine

_FILE = "program.py"
_ARGUMENTS = ("weight", "num_replicas", "num_groups", "num_nodes", "num_gpus")


class _Failure(Exception):
    """What is wrong with a program, in one line."""


def run(control: socket.socket, parent: int) -> None:
    """Serve one run in a freshly forked process, which ends here.

    control: where `eplb.sandbox.runner` sends its request with four descriptors: go pipe, done
        pipe, window and answer memory
    parent: the process that this one ends with
    """
    request, (go, done, window, answer) = protocol.receive(control, max_descriptors=4)
    control.close()
    status = 1
    try:
        window_memory = mmap.mmap(window, 0, prot=mmap.PROT_READ)
        answer_memory = mmap.mmap(answer, 0)
        safeguards = confine(**request["confine"], kept=(go, done), parent=parent)
        os.write(done, protocol.CONFINED + json.dumps(safeguards).encode() + b"\n")
        _serve(request, go, done, window_memory, answer_memory)
        status = 0
    except BaseException as error:
        _report(done, error)
    finally:
        # No interpreter shutdown: exit handlers belong to the zygote, or to the program.
        os._exit(status)


def _serve(request: dict, go: int, done: int, window: mmap.mmap, answer: mmap.mmap) -> None:
    call = _load(request["source"])
    weight = torch.from_numpy(np.frombuffer(window, np.float32)).view(request["shape"])
    target = memoryview(answer)
    os.write(done, protocol.LOADED)
    while os.read(go, 1) == protocol.GO:
        result = call(weight.clone(), *request["deployment"])
        protocol.write_maps(target, _arrays(result, request["widest"]))
        os.write(done, protocol.DONE)
        # Freed here, the maps of one window do not add to the memory of the next.
        del result


def _load(source: str) -> Callable:
    """Execute the program as a module and return what the contract asks for: what to call.

    Where a program has no ``run_eplb``, as in repositories that share this task, the balancer
    itself is called.
    """
    linecache.cache[_FILE] = (len(source), None, source.splitlines(keepends=True), _FILE)
    module = types.ModuleType("program")
    module.__file__ = _FILE
    sys.modules["program"] = module
    exec(compile(source, _FILE, "exec"), module.__dict__)
    balance = _function(module, "rebalance_experts")
    return _function(module, "run_eplb") if hasattr(module, "run_eplb") else balance


def _function(module: types.ModuleType, name: str) -> Callable:
    signature = f"{name}({', '.join(_ARGUMENTS)})"
    function = getattr(module, name, None)
    if not callable(function):
        raise _Failure(f"the program defines no function {signature}")
    try:
        inspect.signature(function).bind(*_ARGUMENTS)
    except (TypeError, ValueError) as error:
        raise _Failure(f"{name} cannot be called as {signature}: {error}") from error
    return function


def _arrays(result: object, widest: int) -> list[np.ndarray]:
    """The three maps as arrays, without converting anything that breaks the contract.

    Columns of ``log2phy`` that no valid placement can use are left away if they are unused.
    """
    if not isinstance(result, (tuple, list)) or len(result) != len(protocol.MAPS):
        found = f"{len(result)} values" if isinstance(result, (tuple, list)) else _kind(result)
        raise _Failure(f"the program returned {found}; it must return {', '.join(protocol.MAPS)}")
    for name, value in zip(protocol.MAPS, result, strict=True):
        if type(value) is not torch.Tensor or value.dtype != torch.int64:
            raise _Failure(f"{name} is {_kind(value)}; it must be a torch.Tensor of torch.int64")
        if value.layout != torch.strided or value.device.type != "cpu":
            raise _Failure(f"{name} is {value.layout} on {value.device}; it must be dense, on cpu")
    phy2log, log2phy, logcnt = (value.numpy() for value in result)
    if log2phy.ndim == 3 and (log2phy[:, :, widest:] == -1).all():
        log2phy = log2phy[:, :, :widest]
    return [phy2log, log2phy, logcnt]


def _kind(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"a '{type(value).__name__}' of {value.dtype}"
    return f"a '{type(value).__name__}'"


def _report(done: int, error: BaseException) -> None:
    """Send what went wrong; the evaluator decides what of it is told (`eplb.sandbox.failures`)."""
    frames = traceback.extract_tb(error.__traceback__, limit=-50)
    lines = [frame.lineno for frame in frames if frame.filename == _FILE]
    text = str(error)
    if isinstance(error, SyntaxError) and error.filename == _FILE:
        lines, text = [error.lineno], error.msg
    name = "" if isinstance(error, _Failure) else type(error).__name__
    report = {"error": name[:100], "text": text[:1000], "lines": lines[-8:]}
    os.write(done, protocol.FAILED + json.dumps(report).encode())

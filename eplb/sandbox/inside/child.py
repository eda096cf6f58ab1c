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
import sys
import traceback
import types

import numpy as np
import protocol
import torch
from confine import confine

_FILE = "program.py"
_ARGUMENTS = ("weight", "num_replicas", "num_groups", "num_nodes", "num_gpus")


class _Failure(Exception):
    """What is wrong with a program, in one line."""


def run(request: dict, descriptors: list[int]) -> None:
    """Serve one run in a freshly forked process, which ends here.

    request: what `eplb.sandbox.runner` sends
    descriptors: go pipe, done pipe, window and answer memory
    """
    go, done, window, answer = descriptors
    status = 1
    try:
        window_memory = mmap.mmap(window, 0, prot=mmap.PROT_READ)
        answer_memory = mmap.mmap(answer, 0)
        os.close(window)
        os.close(answer)
        safeguards = confine(**request["confine"])
        os.write(done, protocol.CONFINED + json.dumps(safeguards).encode() + b"\n")
        _serve(request, go, done, window_memory, answer_memory)
        status = 0
    except BaseException as error:
        _report(done, error)
    finally:
        # No interpreter shutdown: exit handlers belong to the zygote, or to the program.
        os._exit(status)


def _serve(request: dict, go: int, done: int, window: mmap.mmap, answer: mmap.mmap) -> None:
    module = _load(request["source"])
    weight = torch.from_numpy(np.frombuffer(window, np.float32)).view(request["shape"])
    target = memoryview(answer)
    os.write(done, protocol.LOADED)
    while os.read(go, 1) == protocol.GO:
        result = module.run_eplb(weight.clone(), *request["deployment"])
        protocol.write_maps(target, _arrays(result))
        os.write(done, protocol.DONE)
        # Freed here, the maps of one window do not add to the memory of the next.
        del result
    os.write(done, _stages(module))


def _load(source: str) -> types.ModuleType:
    """Execute the program as a module and check that it has what the contract asks for."""
    linecache.cache[_FILE] = (len(source), None, source.splitlines(keepends=True), _FILE)
    module = types.ModuleType("program")
    module.__file__ = _FILE
    sys.modules["program"] = module
    exec(compile(source, _FILE, "exec"), module.__dict__)
    for name in ("rebalance_experts", "run_eplb"):
        function = getattr(module, name, None)
        if not callable(function):
            raise _Failure(f"the program defines no function {name}({', '.join(_ARGUMENTS)})")
        try:
            inspect.signature(function).bind(*_ARGUMENTS)
        except (TypeError, ValueError) as error:
            signature = f"{name}({', '.join(_ARGUMENTS)})"
            raise _Failure(f"{name} cannot be called as {signature}: {error}") from error
    return module


def _arrays(result: object) -> list[np.ndarray]:
    """The three maps as arrays, without converting anything that breaks the contract."""
    if not isinstance(result, (tuple, list)) or len(result) != len(protocol.MAPS):
        found = f"{len(result)} values" if isinstance(result, (tuple, list)) else _kind(result)
        raise _Failure(f"run_eplb returned {found}; it must return {', '.join(protocol.MAPS)}")
    for name, value in zip(protocol.MAPS, result, strict=True):
        if type(value) is not torch.Tensor or value.dtype != torch.int64:
            raise _Failure(f"{name} is {_kind(value)}; it must be a torch.Tensor of torch.int64")
        if value.layout != torch.strided or value.device.type != "cpu":
            raise _Failure(f"{name} is {value.layout} on {value.device}; it must be dense, on cpu")
    return [value.numpy() for value in result]


def _kind(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"a {type(value).__name__} of {value.dtype}"
    return f"a {type(value).__name__}"


def _stages(module: types.ModuleType) -> bytes:
    """What the program says of its stages, as JSON; nothing if it says nothing that makes sense."""
    try:
        text = json.dumps({str(k): float(v) for k, v in module.stage_seconds.items()})
    except (AttributeError, TypeError, ValueError):
        text = "{}"
    return text.encode() if len(text) < protocol.TEXT_LIMIT else b"{}"


def _report(done: int, error: BaseException) -> None:
    """Send what went wrong: one line, and the traceback's lines in the program."""
    if isinstance(error, _Failure):
        lines = [str(error)]
    else:
        lines = [traceback.format_exception_only(type(error), error)[-1].strip()]
        if isinstance(error, SyntaxError) and error.filename == _FILE:
            lines[0] += f" in line {error.lineno}: {(error.text or '').strip()}"
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == _FILE]
        lines += [f"line {f.lineno}, in {f.name}: {f.line}" for f in frames[-8:]]
    text = "\n".join(line[:1000] for line in lines)
    os.write(done, protocol.FAILED + text.encode(errors="replace")[: protocol.TEXT_LIMIT])

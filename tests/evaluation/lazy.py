"""Honest programs made lazy, and what that is worth: `python -m tests.evaluation.lazy`.

Covered: the honest programs, `BASE` made lazy in the ways of `LAZY`, and a program that knows the
embedded trace by heart, in one table by every scoring and on traces drawn for it.
"""

from __future__ import annotations

import base64
import tempfile
import zlib
from pathlib import Path

import numpy as np

from eplb import reference
from eplb.common import DONE, exit_on_user_error, project_file
from eplb.evaluation.fresh import draw, mean_score, score_fresh
from eplb.evaluation.measure import SEED, Criteria, run_program
from eplb.evaluation.scores import SCORINGS, Figures, PlacementScores, combined_scores
from eplb.placement import Deployment
from eplb.sandbox.runner import Refused, Sandbox
from eplb.trace import History, read_trace

BASE = "programs/balanced.py"
HONEST = sorted(project_file("programs").glob("*.py"))
# When a lazy program decides; in between it hands out its last maps, at first experts in order.
LAZY = {
    "in order": "False",
    "once": "_call == 0",
    "once, late": "_call == 4",
    "every second window": "_call % 2 == 0",
    "every third window": "_call % 3 == 0",
    "other windows in each repeat": "_time.perf_counter_ns() // 64 % 3 == 0",
    "on drift": "_seen is None or (weight - _seen).abs().sum() > 0.3 * weight.sum()",
    "header only": "_call % 2 == 0",
}
_WRAPPER = """

import sys as _sys, time as _time, torch as _torch
_honest, _call, _kept, _seen, _header = run_eplb, -1, None, None, b""
_protocol = _sys.modules.get("protocol")


def run_eplb(weight, slots, *sizes):
    global _call, _kept, _seen
    _call += 1
    if {decides}:
        _kept, _seen = _honest(weight, slots, *sizes), weight.clone()
    if _kept is None:
        layers, experts = weight.shape
        of_expert = _torch.arange(-(-slots // experts) * experts).view(-1, experts).T
        of_expert = _torch.where(of_expert < slots, of_expert, -1)
        maps = _torch.arange(slots) % experts, of_expert, (of_expert >= 0).sum(dim=1)
        _kept = tuple(m.expand(layers, *m.shape) for m in maps)
    return _kept
"""
# Writes the header of the maps alone where nothing was decided, and trusts what still stands there.
_HEADER_ONLY = """

def _only_header(memory, maps, write=getattr(_protocol, "write_maps", None)):
    global _header
    if _call % 2 and _header:
        memory[: len(_header)] = _header
    else:
        write(memory, maps)
        _header = bytes(memory[: _protocol.HEADER.itemsize])


if _protocol:
    _protocol.write_maps = _only_header
"""
_BY_HEART = """
import base64, zlib, numpy as np
_answers = np.frombuffer(zlib.decompress(base64.b85decode({text!r})), np.int16).reshape({shape})
_honest, _window = run_eplb, -1


def run_eplb(weight, slots, *sizes):
    global _window
    _window += 1
    if _answers.shape[1:] != (len(weight), slots):
        return _honest(weight, slots, *sizes)
    phy2log = torch.from_numpy(_answers[_window % len(_answers)].astype(np.int64))
    logcnt = torch.zeros(weight.shape, dtype=torch.int64)
    logcnt.scatter_add_(1, phy2log, torch.ones_like(phy2log))
    return phy2log, slots_by_expert(phy2log, logcnt), logcnt
"""


def lazy(source: str, name: str) -> str:
    """The program ``source``, made lazy in the way ``name`` of `LAZY`."""
    wrapped = source + _WRAPPER.format(decides=LAZY[name])
    return wrapped + _HEADER_ONLY * (name == "header only")


def by_heart(history: History, num_slots: int, num_gpus: int) -> str:
    """The seed with a good placement for every window of ``history`` that is to come."""
    placed = [reference.place(load, num_slots, num_gpus) for load in history.windows[1:]]
    answers = np.array(placed, dtype=np.int16)
    text = base64.b85encode(zlib.compress(answers.tobytes(), 9)).decode()
    return project_file(SEED).read_text() + _BY_HEART.format(text=text, shape=answers.shape)


def programs(folder: Path, history: History, deployment: Deployment) -> dict[str, Path]:
    """Every row of the table: the honest ones, the lazy ones and the one that knows the trace."""
    rows = {path.name: path for path in [project_file(SEED), *HONEST]}
    base, seed = (project_file(name).read_text() for name in (BASE, SEED))
    sources = {f"{Path(BASE).name}, {name}": lazy(base, name) for name in LAZY}
    sources[f"{SEED}, once"] = lazy(seed, "once")
    sources["the trace by heart"] = by_heart(history, deployment.num_replicas, deployment.num_gpus)
    for index, (name, source) in enumerate(sources.items()):
        rows[name] = folder / f"{index}.py"
        rows[name].write_text(source)
    return rows


def main() -> int:
    trace = read_trace(project_file("expert-load.json"))
    history, deployment = History.of(trace), trace.deployment()
    traces = draw(3)
    print(f"| program | balancedness | {' | '.join(SCORINGS)} | eplb on fresh traces |")
    print("|---" * (len(SCORINGS) + 3) + "|")
    with tempfile.TemporaryDirectory() as folder, Sandbox() as sandbox:
        for name, path in programs(Path(folder), history, deployment).items():
            options = {"repeats": 3, "time_seed": True}
            try:
                run = run_program(sandbox, path, history.seen, deployment, **options)
            except Refused as error:
                print(f"| {name} | refused: {str(error)[:40]}… |" + " |" * (len(SCORINGS) + 1))
                continue
            placed = PlacementScores(run.placements, history, deployment)
            figures = Figures.of(placed, run.seconds, run.seed_seconds)
            cells = [figures.balance, *combined_scores(figures).values()]
            if ", " not in name:  # of lazy ones the balance alone says enough
                [fresh] = score_fresh([path], traces, sandbox, Criteria())
                cells.append(mean_score(fresh))
            text = " | ".join(f"{cell:.3f}" for cell in cells)
            print(f"| {name} | {text} |" + " |" * (", " in name), flush=True)
    return DONE


if __name__ == "__main__":
    exit_on_user_error(main)

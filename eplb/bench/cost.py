"""What an evaluation costs: `python -m eplb.bench.cost`, and `--large` for a 223 MB trace too.

Time is compared with `python -c "import torch"` in the same run, each evaluation with an import
just before it, since a ratio holds on any machine and an absolute time does not. Memory is the
peak over all processes of an evaluation, the sandbox included. Not covered: the quality of a
balancer (`evaluate.py`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

from eplb.common import (
    DONE,
    ArgumentParser,
    UserError,
    exit_on_user_error,
    positive_int,
    project_file,
)
from eplb.evaluation.measure import SEED
from eplb.trace import Trace, write_trace

FAST_PROGRAM = "programs/balanced.py"
# Records, layers and experts of the public trace, and numbers long enough for its size.
LARGE = (1200, 58, 256)
FEWEST_TOKENS, MOST_TOKENS = 10**10, 196 * 10**9
SAMPLE_SECONDS = 0.2


def run(command: list[str], megabytes: list[float] | None = None) -> float:
    """Run ``command`` and return its wall time; append its memory to ``megabytes`` now and then."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while megabytes is not None and process.poll() is None:
            megabytes.append(memory_of(process.pid) / 1e6)
            time.sleep(SAMPLE_SECONDS)
        process.wait()
        seconds = time.perf_counter() - start
        if process.returncode != DONE:
            output.seek(0)
            said = output.read().decode(errors="replace")
            raise UserError(f"{' '.join(command)} failed: {said}")
    return seconds


def memory_of(pid: int) -> int:
    """Bytes that process ``pid`` and its descendants hold, shared pages counted once (Linux)."""
    total = 0
    # Any of them may just have ended.
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += each.memory_full_info().pss
    return total


def import_torch() -> float:
    """Seconds of a Python that imports torch and ends."""
    return run([sys.executable, "-c", "import torch"])


def write_large_trace(path: Path) -> None:
    """A look-alike of the public trace, about 223 MB."""
    loads = np.random.default_rng(0).integers(FEWEST_TOKENS, MOST_TOKENS, LARGE)
    write_trace(path, Trace(loads))


def line(name: str, value: str, target: str = "") -> None:
    """Print a row of the table."""
    print(f"{name:<46} {value:<32} {target}".rstrip(), flush=True)


def bench(repeats: int, large: bool, folder: Path) -> None:
    """Print one line a measurement, with its target beside it."""
    script = [sys.executable, str(project_file("evaluate.py")), "--results_dir", str(folder)]
    fast, seed = (
        [*script, "--program_path", str(project_file(name))] for name in (FAST_PROGRAM, SEED)
    )
    line("measured", "value (lowest-highest)", "target")
    import_torch()  # Fills the disk cache.
    imports, times = np.array([(import_torch(), run(fast)) for _ in range(repeats)]).T
    ratios = times / imports
    spread = f"{np.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    line(f"{FAST_PROGRAM} / import torch", spread, "at most 2.5")
    line("  seconds", f"{np.median(times):.2f} / {np.median(imports):.2f}")
    before, seconds = import_torch(), run(seed)
    line(f"{SEED}, seconds", f"{seconds:.1f}", "under 30")
    line(f"{SEED} / import torch", f"{seconds / before:.2f}")
    commands = {"memory": [*fast, "--repeats", "1"]}
    if large:
        trace = folder / "expert-load.json"
        write_large_trace(trace)
        size = trace.stat().st_size / 1e6
        commands[f"memory with a trace of {size:.0f} MB"] = [*fast, "--trace", str(trace)]
    for name, command in commands.items():
        megabytes: list[float] = []
        seconds = run(command, megabytes)
        line(name, f"{max(megabytes):.0f} MB, in {seconds:.1f} s", "under 1000 MB")


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m eplb.bench.cost", description=__doc__)
    add = parser.add_argument
    add("--repeats", type=positive_int, default=5, help="of the first ratio (default: 5)")
    add("--large", action="store_true", help="a 223 MB trace too (minutes)")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        bench(args.repeats, args.large, Path(folder))
    return DONE


if __name__ == "__main__":
    exit_on_user_error(main)

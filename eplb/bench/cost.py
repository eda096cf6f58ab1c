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
from pathlib import Path

import numpy as np

from eplb.common import (
    DONE,
    ArgumentParser,
    UserError,
    exit_on_user_error,
    positive_int,
    project_file,
)

FAST_PROGRAM = "programs/balanced.py"
# The shape of the public trace, and numbers long enough for its size.
LARGE_RECORDS, LARGE_LAYERS, LARGE_EXPERTS = 1200, 58, 256
FEWEST_TOKENS, MOST_TOKENS = 10**9, 24 * 10**9
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
    try:
        for entry in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if entry.startswith("Pss:"):
                total += 1024 * int(entry.split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        # The process has just ended.
        return total
    return total + sum(memory_of(int(child)) for child in children)


def import_torch() -> float:
    """Seconds of a Python that imports torch and ends."""
    return run([sys.executable, "-c", "import torch"])


def evaluation(program: str, results: Path, *options: str) -> list[str]:
    """The command of a whole evaluation."""
    script, path = str(project_file("evaluate.py")), str(project_file(program))
    base = [sys.executable, script, "--program_path", path, "--results_dir", str(results)]
    return [*base, *options]


def write_large_trace(path: Path) -> None:
    """A look-alike of the public trace: 1200 records of 58 x 256 numbers, about 223 MB."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"load_history": [')
        for record in range(LARGE_RECORDS):
            loads = rng.integers(FEWEST_TOKENS, MOST_TOKENS, (LARGE_LAYERS, LARGE_EXPERTS))
            file.write(", " if record else "")
            file.write(f'{{"logical_expert_load": {loads.tolist()}}}')
        file.write("]}\n")


def line(name: str, value: str, target: str) -> None:
    print(f"{name:<46} {value:<32} {target}".rstrip(), flush=True)


def bench(repeats: int, large: bool, folder: Path) -> None:
    """Print one line a measurement, with its target beside it."""
    line("measured", "value (lowest-highest)", "target")
    import_torch()  # Fills the disk cache.
    ratios, times, imports = [], [], []
    for _ in range(repeats):
        imports.append(import_torch())
        times.append(run(evaluation(FAST_PROGRAM, folder)))
        ratios.append(times[-1] / imports[-1])
    spread = f"{np.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    line(f"{FAST_PROGRAM} / import torch", spread, "at most 2.5")
    line("  seconds", f"{np.median(times):.2f} / {np.median(imports):.2f}", "")
    before = import_torch()
    seconds = run(evaluation("initial.py", folder))
    line("initial.py, seconds", f"{seconds:.1f}", "under 30")
    line("initial.py / import torch", f"{seconds / before:.2f}", "")
    memory_line("memory", evaluation(FAST_PROGRAM, folder, "--repeats", "1"))
    if large:
        trace = folder / "expert-load.json"
        write_large_trace(trace)
        size = trace.stat().st_size / 1e6
        command = evaluation(FAST_PROGRAM, folder, "--trace", str(trace))
        memory_line(f"memory with a trace of {size:.0f} MB", command)


def memory_line(name: str, command: list[str]) -> None:
    megabytes: list[float] = []
    seconds = run(command, megabytes)
    line(name, f"{max(megabytes):.0f} MB, in {seconds:.1f} s", "under 1000 MB")


def main() -> int:
    parser = ArgumentParser(description="Measure what an evaluation costs.")
    parser.add_argument(
        "--repeats", type=positive_int, default=5, help="of the first ratio (default: 5)"
    )
    parser.add_argument("--large", action="store_true", help="a 223 MB trace too (minutes)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench(args.repeats, args.large, Path(folder))
    return DONE


if __name__ == "__main__":
    exit_on_user_error(main)

"""Time and memory of reading a large TensorRT-LLM recording: ``python -m eplb.engines.bench``.

Makes 61 layers × 256 experts × 100 iterations × 32 ranks, about 200 MB, in a temporary folder.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from eplb.engines.registry import read_statistics

LAYERS, EXPERTS, ITERATIONS, RANKS = 61, 256, 100, 32


def make_recording(folder: Path) -> int:
    """Write the recording and return its size in bytes."""
    (folder / "meta_info.json").write_text(json.dumps({"num_experts": EXPERTS}))
    draws = np.random.default_rng(0)
    for rank in range(RANKS):
        counts = draws.poisson(32, (ITERATIONS, LAYERS, EXPERTS)).astype(np.int32)
        tensors = {f"{i}_{n}": counts[i, n] for i in range(ITERATIONS) for n in range(LAYERS)}
        save_file(tensors, folder / f"rank{rank}.safetensors")
    return sum(path.stat().st_size for path in folder.iterdir())


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        size = make_recording(Path(name))
        start = time.perf_counter()
        statistics = read_statistics(Path(name))
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"read {size / 1e6:.0f} MB, loads {list(statistics.loads.shape)}, in {seconds:.1f} s")
    print(f"peak memory of the process, making the recording included: {peak:.0f} MiB")


if __name__ == "__main__":
    main()

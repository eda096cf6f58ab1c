"""Keys never reach a candidate, and a prompt never contains the trace.

Run it with `pytest tests/evolution/test_secrets.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace

from eplb.trace import write_trace
from eplb.workload_model import PRESETS, generate
from tests.evolution.model_server import KEY, ModelServer
from tests.evolution.runs import ROOT, Runs

SPY = """
def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    import os, pathlib
    seen = [str(dict(os.environ))]
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            seen.append((process / "environ").read_text(errors="replace"))
        except OSError:
            pass
    keys = [name for name in ("OPENAI_API_KEY", "LOCAL_OPENAI_API_KEY") if name in "".join(seen)]
    if keys:
        raise OverflowError
    raise LookupError
"""


def evaluate(program, results, **environment):
    subprocess.run(
        [
            *(sys.executable, str(ROOT / "evaluate.py"), "--program_path", str(program)),
            *("--results_dir", str(results), "--repeats", "1"),
        ],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )
    return (results / "metrics.json").read_text() + (results / "correct.json").read_text()


def test_a_candidate_sees_no_key(tmp_path):
    seed = (ROOT / "initial.py").read_text()
    program = tmp_path / "main.py"
    program.write_text(seed.replace("# EVOLVE-BLOCK-END", SPY + "\n\n# EVOLVE-BLOCK-END"))
    told = evaluate(program, tmp_path / "results", OPENAI_API_KEY=KEY, LOCAL_OPENAI_API_KEY=KEY)
    # Either it looked and found none, or it was refused for looking at all.
    assert "window 0: LookupError" in told or "/proc" in told, told
    assert KEY not in told and "OPENAI_API_KEY" not in told


def test_no_prompt_contains_the_trace(tmp_path):
    """A run with the real evaluation: what models read holds no stretch of the recorded loads."""
    recorded = generate(replace(PRESETS["deepseek-v3"], layers=2))
    write_trace(tmp_path / "trace.json", recorded)
    with ModelServer() as server:
        runs = Runs(tmp_path, server)
        overrides = [text for text in runs.overrides(2) if "eval_program_path" not in text]
        overrides.append("+distributed_job_config.extra_cmd_args.repeats=1")
        overrides.append(f"trace={tmp_path}/trace.json")
        process = runs.start(overrides)
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out
        prompts = "\n".join(server.prompts)
    assert runs.rows("min(correct)") == [(1,)]
    assert "Combined score" in prompts and "balancedness" in prompts
    layers = recorded.loads.reshape(-1, recorded.loads.shape[2]).tolist()
    trace = ";".join(",".join(map(str, layer)) for layer in layers)
    for numbers in re.findall(r"\d+(?:[,\s\[\]]+\d+){3,}", prompts):
        numbers = re.findall(r"\d+", numbers)
        for start in range(len(numbers) - 3):
            assert f",{','.join(numbers[start : start + 4])}," not in trace

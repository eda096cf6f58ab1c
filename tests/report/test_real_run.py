"""A small run of ShinkaEvolve itself, read while it goes on and after it ended.

The proposer answers by a counter and the evaluation by arithmetic, so the run needs no model, no
key and no network; every third proposal cannot be applied, every fourth program fails.

Run it with `pytest tests/report/test_real_run.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from eplb.common import UserError
from eplb.evolution.rundb import Run
from eplb.report import accounts
from eplb.report.page import render
from eplb.report.program import read
from eplb.report.side_files import failed_edits, reason
from tests.evolution.recorded import SEED_CODE
from tests.report.document import Document

PROPOSER = """
import json, re, sys
from pathlib import Path
if "--check" in sys.argv:
    sys.exit(0)
counter = Path(__file__).with_suffix(".count")
count = int(counter.read_text()) + 1 if counter.exists() else 1
counter.write_text(str(count))
prompt = Path(sys.argv[sys.argv.index("--prompt-file") + 1]).read_text()
current = prompt[prompt.rindex("# Current program"):]
line = re.search(r"^STEPS = \\d+$", current, re.MULTILINE)[0] if count % 3 else "NO SUCH LINE"
print(f"<NAME>\\nsteps_{count}\\n</NAME>\\n<DESCRIPTION>\\nTakes {count} steps.\\n</DESCRIPTION>")
print(f"<<<<<<< SEARCH\\n{line}\\n=======\\nSTEPS = {count}\\n>>>>>>> REPLACE")
print(json.dumps({"usage": {"input_tokens": 11, "output_tokens": 7, "cost": 0.25}}))
"""

EVALUATOR = """
import argparse, json, re
from pathlib import Path
parser = argparse.ArgumentParser()
parser.add_argument("--program_path", type=Path)
parser.add_argument("--results_dir", type=Path)
arguments = parser.parse_args()
steps = int(re.search(r"STEPS = (\\d+)", arguments.program_path.read_text())[1])
failed = steps % 4 == 2
public = {} if failed else {"balancedness_score": 0.5 + steps / 100, "call_ms": 10.0 / (1 + steps)}
metrics = {"combined_score": 0.0 if failed else steps / 100, "public": public, "private": {}}
metrics["text_feedback"] = "what the model is told"
correct = {"correct": not failed, "error": f"slot {steps} is empty" if failed else ""}
arguments.results_dir.mkdir(parents=True, exist_ok=True)
(arguments.results_dir / "metrics.json").write_text(json.dumps(metrics))
(arguments.results_dir / "correct.json").write_text(json.dumps(correct))
"""

RUNNER = """
import sys
from shinka.core import EvolutionConfig, ShinkaEvolveRunner
from shinka.database import DatabaseConfig
from shinka.launch import LocalJobConfig
folder, results = sys.argv[1:]
ShinkaEvolveRunner(
    evo_config=EvolutionConfig(
        task_sys_msg="Take more steps.", num_generations=9, job_type="local", results_dir=results,
        init_program_path=f"{folder}/initial.py", llm_models=["headless/counter"],
        embedding_model=None, patch_types=["diff"], patch_type_probs=[1.0], max_patch_attempts=1,
        max_patch_resamples=1, max_novelty_attempts=1,
    ),
    job_config=LocalJobConfig(eval_program_path=f"{folder}/evaluator.py"),
    db_config=DatabaseConfig(num_islands=2, migration_interval=3, migration_rate=0.5),
    max_evaluation_jobs=1, max_proposal_jobs=1, verbose=False,
).run()
"""


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Run], Run]:
    """What could be read while the run went on, and what it had become when it ended."""
    folder = tmp_path_factory.mktemp("real")
    for name, content in (
        ("proposer.py", PROPOSER),
        ("evaluator.py", EVALUATOR),
        ("runner.py", RUNNER),
        ("initial.py", SEED_CODE),
    ):
        (folder / name).write_text(content)
    results = folder / "results"
    command = f"{sys.executable} -S -E {folder}/proposer.py"
    with open(folder / "log", "w") as log:
        run = subprocess.Popen(
            [sys.executable, folder / "runner.py", folder, results],
            env=os.environ | {"SHINKA_HEADLESS_COMMAND": command},
            stdout=log,
            stderr=log,
            cwd=folder,
        )
        seen = []
        try:
            while run.poll() is None:
                try:
                    seen.append(read(results))
                    render(seen[-1], time.time())
                except UserError as error:
                    assert any(
                        word in str(error) for word in ("exist", "no program", "no such table")
                    )
                time.sleep(0.3)
        finally:
            run.kill()
            run.wait()
    assert run.returncode == 0, (folder / "log").read_text()[-2000:]
    return seen, read(results)


def test_it_can_be_read_while_it_goes_on(real_run) -> None:
    seen, ended = real_run
    counts = [len(run.programs) for run in seen]
    assert counts == sorted(counts) and counts[0] < len(ended.programs)
    assert any(run.unfinished for run in seen) and not ended.unfinished


def test_what_shinka_writes_is_where_the_report_looks(real_run) -> None:
    _, ended = real_run
    own = [p for p in ended.programs if not p.is_copy and not p.is_seed]
    assert own and all(p.model == "headless/counter" for p in own)
    for program in own:
        steps = int(program.name.removeprefix("steps_"))
        assert program.description == f"Takes {steps} steps." and program.edit == "diff"
        assert program.correct == (steps % 4 != 2)
        if program.correct:
            assert program.score == steps / 100
            assert program.milliseconds == pytest.approx(10 / (1 + steps))
        else:
            assert reason(ended.folder, program.generation) == f"slot {steps} is empty"
    assert ended.damaged == 0


def test_failures_and_costs_of_the_real_run(real_run) -> None:
    _, ended = real_run
    found = {(f.stage, f.reason): len(f.generations) for f in accounts.failures(ended)}
    incorrect = sum(not p.correct for p in ended.programs)
    assert found["Evaluation failed", "slot # is empty"] == incorrect > 0
    given_up = [n for (stage, _), n in found.items() if stage == "Proposal given up"]
    assert sum(given_up) == len(ended.failed_proposals) > 0
    asked_again = [n for (stage, _), n in found.items() if stage == "Edit asked for again"]
    assert sum(asked_again) == len(list(failed_edits(ended.folder))) > 0
    [model] = accounts.models(ended)
    own = [p for p in ended.programs if not p.is_copy and not p.is_seed]
    assert model.proposals == len(own) + len(ended.failed_proposals)
    assert (model.input_tokens, model.output_tokens) == (11 * len(own), 7 * len(own))
    assert accounts.bill(ended).total == pytest.approx(0.25 * model.proposals)


def test_the_page_of_the_real_run(real_run) -> None:
    _, ended = real_run
    document = Document.of(render(ended, time.time()))
    assert len(document.tables["program-table"]) == len(ended.programs) + 1
    best = max((p for p in ended.programs if p.correct), key=lambda p: p.score)
    assert best.generation > 0 and best.description in document.text

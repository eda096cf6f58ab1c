"""The command as ShinkaEvolve's headless provider runs it: python -m pytest tests/proposer."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from shinka.core.sampler import PromptSampler
from shinka.database import Program as Individual
from shinka.edit.apply_diff import apply_diff_patch
from shinka.llm import LLMClient
from shinka.llm.providers.headless import _render_prompt, check_headless_available

from tests.proposer.programs import SEED

AGENT = Path(__file__).parents[2] / "eplb" / "proposer" / "agent.py"
COMMAND = [sys.executable, "-S", "-E", str(AGENT)]


def diff_request():
    sampler = PromptSampler(task_sys_msg="Task.", patch_types=["diff"], patch_type_probs=[1.0])
    parent = Individual(id="1", code=SEED, combined_score=0.4, public_metrics={})
    return sampler.sample(parent, [], [])[:2]


def run(*arguments, **environment):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=environment
    )


def written(folder, name, system, user):
    path = folder / f"prompt_{name}.md"
    path.write_text(_render_prompt(msg=user, system_msg=system, msg_history=[]), encoding="utf-8")
    return path


def test_check_says_ready_from_any_folder(tmp_path):
    (tmp_path / "ast.py").write_text("raise RuntimeError('a file that hides a module')")
    done = subprocess.run([*COMMAND, "--check"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_shinka_reaches_the_proposer_through_its_headless_model(tmp_path, monkeypatch):
    monkeypatch.setenv("SHINKA_HEADLESS_COMMAND", shlex.join(COMMAND))
    check_headless_available()
    system, user = diff_request()
    model = LLMClient(
        model_names=["headless/offline"], headless_work_dir=str(tmp_path), verbose=False
    )
    answers = [model.query(msg=user, system_msg=system) for _ in range(3)]
    for one in answers:
        assert one.cost == 0.0
        _, count, _, error, *_ = apply_diff_patch(
            patch_str=one.content, original_str=SEED, language="python", verbose=False
        )
        assert error is None and count > 0
    # The same question comes again while few programs are known: it must get another answer.
    assert len({one.content for one in answers}) > 1


def test_proposals_depend_on_the_seed_and_the_prompt_alone(tmp_path):
    system, user = diff_request()
    contents = []
    for folder, seed in (("a", "0"), ("b", "0"), ("c", "1"), ("d", "2")):
        (tmp_path / folder).mkdir()
        path = written(tmp_path / folder, folder, system, user)
        done = run("offline", "--prompt-file", path, "--usage", EPLB_PROPOSER_SEED=seed)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["usage"]["cost"] == 0
        contents.append(done.stdout)
    assert contents[0] == contents[1] and len(set(contents)) > 1


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["offline", "--prompt-file", "nowhere.md"], {}, "cannot read the prompt file nowhere.md"),
        (["offline"], {}, "nothing to do"),
        (["--check"], {"EPLB_PROPOSER_SEED": "lucky"}, "EPLB_PROPOSER_SEED is 'lucky'"),
        (["offline", "--prompt-file", __file__], {}, "System Instructions"),
    ],
)
def test_mistakes_are_one_line_on_stderr(arguments, environment, message):
    done = run(*arguments, **environment)
    assert done.returncode == 2 and done.stdout == ""
    assert message in done.stderr and done.stderr.count("\n") == 1

"""Prompts built and answers applied by ShinkaEvolve's own code, never by copies of its prompts.

Run it with `pytest tests/proposer/test_protocol.py`.
"""

from __future__ import annotations

import ast
import random

import numpy as np
import pytest
from shinka.core.sampler import PromptSampler
from shinka.database import Program as Individual
from shinka.edit.apply_diff import apply_diff_patch
from shinka.edit.apply_full import apply_full_patch
from shinka.llm import extract_between
from shinka.llm.providers.headless import _parse_stdout, _render_prompt

from eplb.common import UserError
from eplb.proposer import prompt
from eplb.proposer.program import meaning
from eplb.proposer.propose import answer
from tests.proposer.programs import FOREIGN, OTHER_NAMES, POOL, SEED, outside, walked

TASK = "Balance experts.\n\n```python\nexact = 'nothing'\n```\nAnswer with <CODE>."
FEEDBACK = "balancedness 0.8123\n```\nhottest layer 3\n```\n# Current program\n\nsee above"
APPLY = {"diff": apply_diff_patch, "full": apply_full_patch, "cross": apply_full_patch}


def individual(code, score=0.4, **more):
    return Individual(
        id=str(abs(hash(code))),
        code=code,
        combined_score=score,
        public_metrics={"balancedness_score": score},
        text_feedback=FEEDBACK,
        correct=True,
        **more,
    )


def asked(kind, code, archive=(), top=(), recommendations=None):
    sampler = PromptSampler(
        task_sys_msg=TASK, patch_types=[kind], patch_type_probs=[1.0], use_text_feedback=True
    )
    system, user, _ = sampler.sample(individual(code), list(archive), list(top), recommendations)
    return system, user


def through_headless(system, user, history=(), seed=0):
    """The answer as ShinkaEvolve receives it: rendered prompt in, blank lines stripped out."""
    text = _render_prompt(msg=user, system_msg=system, msg_history=list(history))
    content, usage = _parse_stdout(answer(text, seed) + '\n{"usage": {"cost": 0}}\n')
    assert usage["cost"] == 0
    return content


def applied(kind, content, parent):
    code, count, _, error, *_ = APPLY[kind](
        patch_str=content, original_str=parent, language="python", verbose=False
    )
    assert error is None and count > 0, error
    return code


def check_child(parent, child):
    """It parses, means something else, and is the parent outside the blocks."""
    assert meaning(ast.parse(child)) != meaning(ast.parse(parent))
    strip = [line.rstrip() for line in outside(parent)]
    # A diff costs the file its last line break, whatever is proposed.
    assert [line.rstrip() for line in outside(child)] in (strip, strip[:-1])


# The foreign program has two EVOLVE blocks: its full rewrite is tested by itself, below.
CASES = [(name, kind) for name in POOL for kind in APPLY if name != "foreign" or kind == "diff"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_edits_apply(name, kind, seed):
    np.random.seed(seed)
    random.seed(seed)
    others = [individual(program.text, 0.5) for program in walked(name, seed, 3)[1:]]
    others = others or [individual(SEED)]
    system, user = asked(kind, POOL[name], others, others[:1])
    content = through_headless(system, user, seed=seed)
    check_child(POOL[name], applied(kind, content, POOL[name]))
    proposed = extract_between(content, "<NAME>", "</NAME>", False)
    assert proposed and " " not in proposed and proposed == proposed.lower()
    assert extract_between(content, "<DESCRIPTION>", "</DESCRIPTION>", False)


@pytest.mark.parametrize("seed", range(4))
def test_full_rewrite_keeps_two_blocks_and_strings_with_blank_lines(seed):
    system, user = asked("full", FOREIGN)
    child = applied("full", through_headless(system, user, seed=seed), FOREIGN)
    check_child(FOREIGN, child)
    if "TEXT" in child.split("def cost")[0]:
        space: dict = {}
        exec(child[child.index("TEXT") : child.index("@functools")].split("\n\n\n")[0], space)
        assert space["TEXT"] == "a\n\nb"


def test_generations_of_children_go_on_applying():
    """Answers without blank lines are parents of later prompts."""
    parent, archive, done = SEED, [], 0
    for generation in range(25):
        np.random.seed(generation)
        random.seed(generation)
        kind = ("diff", "full", "cross")[generation % 3]
        system, user = asked(kind, parent, archive[-3:], archive[-1:], "1. Try snake.")
        child = applied(kind, through_headless(system, user), parent)
        check_child(parent, child)
        archive.append(individual(parent, generation / 100))
        parent, done = child, done + 1
    assert done == 25 and outside(parent)[:10] == outside(SEED)[:10]


def test_parent_and_inspirations_are_told_apart_and_sorted():
    better, worse = SEED.replace("0.0]", "0.5]"), SEED.replace("0.0]", "0.25]")
    system, user = asked("cross", SEED, [individual(worse, 0.1)], [individual(better, 0.9)])
    request = prompt.read_request(
        prompt.read_prompt(_render_prompt(msg=user, system_msg=system, msg_history=[]))
    )
    assert request.kind == prompt.CROSS and request.parent.text == SEED
    texts = [listing.text for listing in request.inspirations]
    assert texts[0] == better and worse in texts and SEED not in texts
    assert request.inspirations[0].score == 0.9


def test_crossover_takes_from_the_inspiration():
    donor = SEED.replace("(weight / logcnt).argmax", "(weight / logcnt / logcnt).argmax")
    taken = 0
    for seed in range(5):
        system, user = asked("cross", SEED, [individual(donor, 0.9)])
        child = applied("cross", through_headless(system, user, seed=seed), SEED)
        taken += "logcnt / logcnt" in child
    assert taken >= 3


def test_same_seed_same_proposal_other_seed_another():
    system, user = asked("diff", SEED)
    answers = [through_headless(system, user, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert answers[0] == answers[1] and len(set(answers)) > 2


def test_second_attempt_differs_and_still_fits_the_parent():
    """The retry message and history are those of ShinkaEvolve's runner."""
    system, user = asked("diff", SEED)
    first = through_headless(system, user)
    history = [{"role": "user", "content": user}, {"role": "assistant", "content": first}]
    broken = first.replace("<<<<<<< SEARCH\n", "<<<<<<< SEARCH\nno such line\n", 1)
    *_, error, _, _ = apply_diff_patch(
        patch_str=broken, original_str=SEED, language="python", verbose=False
    )
    assert error
    retry = f"The previous edit was not successful. Error: {error}\n\nTry again."
    second = through_headless(system, retry, history)
    assert second != first
    check_child(SEED, applied("diff", second, SEED))


def fix_prompt(code, stderr="", ancestors=()):
    sampler = PromptSampler(task_sys_msg=TASK, use_text_feedback=True)
    broken = individual(code, 0.0)
    broken.correct, broken.metadata = False, {"stderr_log": stderr, "stdout_log": "started"}
    return sampler.sample_fix(broken, list(ancestors))[:2]


def test_a_fix_tries_other_methods():
    broken = SEED.replace("    return phy2log, logcnt\n", "    return phy2log, missing\n", 1)
    swapped = 0
    for seed in range(6):
        system, user = fix_prompt(broken, "NameError: name 'missing' is not defined")
        child = applied("full", through_headless(system, user, seed=seed), broken)
        check_child(broken, child)
        swapped += "missing" not in child
    assert swapped > 0


def test_text_that_does_not_parse_cannot_be_fixed():
    system, user = fix_prompt(SEED.replace("    rows, items = weight.shape", "    rows = = 3"))
    with pytest.raises(UserError, match="does not parse: invalid syntax"):
        through_headless(system, user)


def test_second_fix_attempt():
    system, user = fix_prompt(SEED, "ValueError")
    first = through_headless(system, user)
    history = [{"role": "user", "content": user}, {"role": "assistant", "content": first}]
    retry = (
        "The previous fix attempt failed. Error: No changes applied.. "
        "Try again with a different approach."
    )
    check_child(SEED, applied("full", through_headless(system, retry, history), SEED))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "System Instructions"),
        ("# System Instructions\n\nhello", "Previous Messages"),
        (_render_prompt(msg="x", system_msg="Be kind.", msg_history=[]), "nothing known"),
        (_render_prompt(msg="x", system_msg="<CODE>", msg_history=[]), "no program"),
        (
            _render_prompt(
                msg="The previous attempt failed. Try again.", system_msg="<CODE>", msg_history=[]
            ),
            "no program",
        ),
        (
            _render_prompt(msg="x", system_msg="determining if two code", msg_history=[]),
            "nothing known",
        ),
    ],
)
def test_malformed_prompts_say_what_is_missing(text, message):
    with pytest.raises(UserError, match=message):
        answer(text, 0)


def test_headings_inside_the_task_message_do_not_confuse():
    system, user = asked("diff", SEED)
    system = "# Previous Messages\n\n[]\n\nnot the request\n\n" + system
    check_child(SEED, applied("diff", through_headless(system, user), SEED))


def test_other_programs_get_answers_too():
    system, user = asked("full", OTHER_NAMES)
    check_child(OTHER_NAMES, applied("full", through_headless(system, user), OTHER_NAMES))

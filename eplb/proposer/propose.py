"""From a request to an answer: drawing operators until a proposal fits the requested form.

The random stream comes from the seed and the prompt alone, so the same seed and prompt give the
same proposal, and a second attempt, whose prompt is another, a different one.
"""

from __future__ import annotations

import hashlib
import random

from eplb.common import UserError
from eplb.proposer import grafting, mutations, prompt, simplifications
from eplb.proposer.answers import diff_answer, full_answer, headed, without_blank_lines
from eplb.proposer.mutations import Change, Sources
from eplb.proposer.parts import read_catalogue
from eplb.proposer.program import Program, meaning

# How often each operator is drawn where it applies. Trying other methods pays most by far; numbers
# and conditions matter once the methods are found.
WEIGHTS = {
    mutations.swap_function: 8.0,
    mutations.change_condition: 0.5,
    mutations.insert_step: 0.7,
    mutations.perturb_constant: 0.7,
    simplifications.simplify: 1.5,
}
# Chance that one more operator follows, by the kind of request: a full rewrite goes further.
ONE_MORE = {prompt.DIFF: 0.4, prompt.FULL: 0.6, prompt.CROSS: 0.3, prompt.FIX: 0.6}
ATTEMPTS = 200


def answer(text: str, seed: int, repeat: int = 0) -> str:
    """Answer a prompt file's text.

    seed: chooses the stream of proposals
    repeat: how often the very same prompt was answered before in this run

    Raises `UserError` where the prompt is malformed or nothing can be proposed.
    """
    request = prompt.read_request(prompt.read_prompt(text))
    digest = hashlib.sha256(f"{seed}\n{repeat}\n{text}".encode()).digest()
    rng = random.Random(int.from_bytes(digest[:8], "big"))
    return propose(request, rng)


def propose(request: prompt.Request, rng: random.Random) -> str:
    """Propose an edit of the request's program, in the form that is asked for.

    A fix, asked for while no program has passed, is an edit like the others: trying other methods
    is all that can be done for a program that fails without knowing why.
    """
    parent = _parent(request.parent)
    donors = [program for program in map(_parsed, request.inspirations) if program]
    sources = Sources(read_catalogue(), donors)
    known = {meaning(program.tree) for program in (parent, *donors)}
    tried = "\n".join(map(without_blank_lines, request.tried))
    for _ in range(ATTEMPTS):
        change = _draw(parent, request.kind, rng, sources)
        if change is None or meaning(change.program.tree) in known:
            continue
        if request.kind == prompt.DIFF:
            body = diff_answer(parent, change.program)
        else:
            body = full_answer(change.program, request.parent.language)
        # ShinkaEvolve hands earlier answers back without their blank lines.
        if body and without_blank_lines(body) not in tried:
            return headed(change.name, change.description, body)
    raise UserError(f"found no {request.kind} edit of this program in {ATTEMPTS} attempts")


def _parent(listing: prompt.Listing) -> Program:
    try:
        return Program(listing.text)
    except SyntaxError as error:
        raise UserError(f"the program to improve does not parse: {error}") from error


def _parsed(listing: prompt.Listing) -> Program | None:
    try:
        return Program(listing.text)
    except (SyntaxError, UserError):
        return None


def _draw(program: Program, kind: str, rng: random.Random, sources: Sources) -> Change | None:
    """Apply one operator or several in a row; None where one of them finds nothing to do."""
    changes = []
    if kind == prompt.CROSS:
        # Without a function to take, a crossover is left to the other operators.
        crossed = grafting.cross_over(program, rng, sources)
        changes = [crossed] if crossed else []
    while not changes or rng.random() < ONE_MORE[kind]:
        operator = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        try:
            change = operator(changes[-1].program if changes else program, rng, sources)
        except SyntaxError:
            return None
        if change is None:
            return None
        changes.append(change)
    name = "_and_".join(change.name for change in changes)[:200]
    return Change(changes[-1].program, name, " ".join(change.description for change in changes))

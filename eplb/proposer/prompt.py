"""Reading what ShinkaEvolve asks: the prompt file of its ``headless/`` provider.

Covered: requests for a diff, a full rewrite, a crossover and a fix, and second attempts at these.
Not covered: a first program, summaries, judgements of novelty and new system prompts, which need
language and which the configuration asks no offline proposer for.
"""

from __future__ import annotations

import ast
import json
import re
from typing import NamedTuple

from eplb.common import UserError

DIFF, FULL, CROSS, FIX = "diff", "full", "cross", "fix"

# A phrase of the system text that only this request has. The order matters: a task message may
# quote anything, but the format instructions of an edit are appended last and are specific.
_PHRASES = (
    (FIX, "You are debugging and fixing"),
    (CROSS, "I.e. perform crossover"),
    (DIFF, "exact SEARCH/REPLACE diff format"),
    (FULL, "<CODE>"),
)
_RETRY = re.compile(r"The previous (edit was not successful|attempt failed|fix attempt failed)")
_SCORE = re.compile(r"Combined score to maximize: (-?\d+(?:\.\d+)?)")


class Prompt(NamedTuple):
    """The three parts of a prompt file; ``history`` holds {"role", "content"} messages."""

    system: str
    history: list[dict]
    user: str


class Listing(NamedTuple):
    """A program in the prompt, with its score where one is shown."""

    text: str
    score: float | None
    language: str = "python"


class Request(NamedTuple):
    """What is asked for.

    kind: one of the constants above
    task: the user message that states the task; on a second attempt it stands in the history
    parent: the program to work on
    inspirations: other programs in the prompt, best first
    tried: our earlier answers to this request, where it is a second attempt
    """

    kind: str
    task: str
    parent: Listing
    inspirations: list[Listing]
    tried: list[str]


def read_prompt(text: str) -> Prompt:
    """Split a prompt file; raises `UserError` where its three sections are not found."""
    opening, messages, request = (
        "# System Instructions\n\n",
        "\n\n# Previous Messages\n\n",
        "\n\n# User Request\n\n",
    )
    if not text.startswith(opening):
        raise UserError("the prompt does not begin with '# System Instructions'")
    at = text.find(messages)
    while at != -1:
        start = at + len(messages)
        try:
            history, end = json.JSONDecoder().raw_decode(text, start)
        except json.JSONDecodeError:
            history, end = None, start
        if _is_history(history) and text.startswith(request, end):
            return Prompt(text[len(opening) : at], history, text[end + len(request) :])
        at = text.find(messages, start)
    raise UserError(
        "the prompt has no '# Previous Messages' with a JSON list followed by '# User Request'"
    )


def _is_history(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(message, dict) and isinstance(message.get("content"), str) for message in value
    )


def read_request(prompt: Prompt) -> Request:
    """Recognise the request and take its programs out; raises `UserError` where that fails."""
    kind = next((kind for kind, phrase in _PHRASES if phrase in prompt.system), None)
    if kind is None:
        raise UserError("the prompt asks for nothing known: a diff, a rewrite, a crossover, a fix")
    task = prompt.user
    tried = [message["content"] for message in prompt.history if message.get("role") == "assistant"]
    if _RETRY.match(prompt.user.lstrip()):
        asked = [message["content"] for message in prompt.history if message.get("role") == "user"]
        task = next((text for text in asked if not _RETRY.match(text.lstrip())), "")
    parent = _after(task, ("# Incorrect Program to Fix\n", "# Current program\n"))
    if parent is None:
        raise UserError("the prompt asks for an edit and holds no program to work on")
    others = [listing for listing in _listings(task) if listing.text != parent.text]
    others.sort(key=lambda listing: -(listing.score if listing.score is not None else -1e9))
    return Request(kind, task, parent, others, tried)


def _after(text: str, headings: tuple[str, ...]) -> Listing | None:
    """The program right under the first of these headings that has one; its last one counts.

    The last one, since earlier sections hold other programs, whose text is not ours to trust.
    """
    for heading in headings:
        # Under the heading: perhaps another heading, perhaps one paragraph, then the fence.
        place = re.compile(rf"^{re.escape(heading)}(?:# .*\n)*\n?(?:[^`#\n].*\n\n)?(?=```)", re.M)
        for match in reversed(list(place.finditer(text))):
            listing = _fenced(text, match.end())
            if listing:
                return listing[0]
    return None


def _listings(text: str) -> list[Listing]:
    """Every fenced program with an EVOLVE block, with the score that follows it."""
    found, at = [], 0
    while True:
        listing = _fenced(text, at)
        if listing is None:
            return found
        if "EVOLVE-BLOCK-START" in listing[0].text:
            found.append(listing[0])
        at = listing[1]


def _fenced(text: str, at: int) -> tuple[Listing, int] | None:
    """The next fenced program and where it ends.

    A program may itself hold a line that looks like a fence, so the first end at which the text
    parses counts; where none does, the first.
    """
    opening = re.compile(r"^```([\w+-]+)\n", re.MULTILINE).search(text, at)
    if opening is None:
        return None
    start = opening.end()
    closings = [match.start() for match in re.finditer(r"^```$", text[start:], re.MULTILINE)]
    if not closings:
        return None
    end = next((end for end in closings[:8] if _parses(text[start : start + end])), closings[0])
    # Programs are fenced as "```python\n{code}\n```": the last line break is the fence's.
    code = text[start : start + max(end - 1, 0)]
    rest = text[start + end : start + end + 400]
    score = _SCORE.search(rest.split("```", 2)[1]) if "```" in rest else None
    value = float(score.group(1)) if score else None
    return Listing(code, value, opening.group(1)), start + end + 3


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True

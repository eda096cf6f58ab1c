"""Answers to the three meta requests: what a program is made of, insights, recommendations.

They are statements of fact drawn from the syntax tree and the figures in the prompt, not analysis.
"""

from __future__ import annotations

import re

from eplb.common import UserError
from eplb.proposer.parts import Part
from eplb.proposer.program import Program, function_meaning
from eplb.proposer.prompt import INSIGHTS, SUMMARY, Request

_SCORED = re.compile(
    r"\*\*Program Name: (?P<name>[^*\n]+)\*\*(?P<rest>.*?)(?=\*\*Program Name: |\Z)", re.DOTALL
)
_SCORE = re.compile(r"Combined score to maximize: (-?\d+(?:\.\d+)?)")


def summarise(request: Request, parts: list[Part]) -> str:
    """Answer a meta request."""
    if request.kind == SUMMARY:
        return _summary(request, parts)
    if request.kind == INSIGHTS:
        return _insights(request, parts)
    return _recommendations(request, parts)


def parts_in(text: str, parts: list[Part]) -> list[Part]:
    """The catalogue's parts that a program holds, as they are in the catalogue."""
    try:
        functions = set(map(function_meaning, Program(text).functions().values()))
    except (SyntaxError, UserError):
        return []
    return [part for part in parts if part.meaning in functions]


def _summary(request: Request, parts: list[Part]) -> str:
    if request.parent is None:
        raise UserError("the prompt asks for a summary and holds no program")
    held = parts_in(request.parent.text, parts)
    name = ", ".join(part.name.replace("_", " ") for part in held) or "own functions only"
    made_of = "; ".join(f"{part.role}: {part.summary}" for part in held)
    score = _SCORE.search(request.task)
    correct = "is incorrect" not in request.task
    feedback = request.task.partition("Text feedback:\n")[2].partition("\n\n")[0]
    return "\n".join(
        (
            f"**Program Name: {name}**",
            f"- **Implementation**: {made_of or 'No part of the catalogue is in it.'}",
            f"- **Performance**: {'' if correct else 'Incorrect. '}"
            f"Combined score {score.group(1) if score else 'unknown'}.",
            f"- **Feedback**: {' '.join(feedback.split())[:300] or 'None.'}",
        )
    )


def _insights(request: Request, parts: list[Part]) -> str:
    scored = []
    # Our own earlier insights quote summaries too; only what stands before them is new.
    fresh = request.task.partition("# Previous Global Insights")[0]
    for match in _SCORED.finditer(fresh):
        score = re.search(r"Combined score (-?\d+(?:\.\d+)?)", match["rest"])
        scored.append((float(score.group(1)) if score else 0.0, match["name"].strip()))
    scored.sort(key=lambda item: -item[0])
    held = parts_in(request.parent.text, parts) if request.parent else []
    best = ", ".join(f"{part.role}/{part.name}" for part in held) or "no part of the catalogue"
    lines = [f"- {name}: {score:.2f}" for score, name in scored] or ["- None."]
    return "\n".join(
        (
            "## Successful Algorithmic Patterns",
            *lines[:3],
            f"- The best program holds {best}.",
            "## Ineffective Approaches",
            *lines[3:][-3:],
            "## Implementation Insights",
            f"- The best program holds {best}.",
            "## Performance Analysis",
            f"- {len(scored)} programs, best {scored[0][0] if scored else 0.0:.2f}.",
        )
    )


def _recommendations(request: Request, parts: list[Part]) -> str:
    asked = re.search(r"generate (\d+) actionable", request.task)
    held = parts_in(request.parent.text, parts) if request.parent else []
    untried = [part for part in parts if part not in held]
    chosen = untried[: int(asked.group(1)) if asked else 5]
    return "\n".join(
        f"{number}. Try {part.role}/{part.name}: {part.summary}"
        for number, part in enumerate(chosen or parts[:1], 1)
    )

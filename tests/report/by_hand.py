"""Programs, confirmations and a hostile run, made by hand."""

from __future__ import annotations

import json
from pathlib import Path

from eplb.report.program import Program

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "</title></svg><svg onload=document.title='owned'><b>{{ 7 * 7 }}"
    "{% raw %}'\"--><!--</pre></style>"
)


def hostile_run(recorder, payload: str = HOSTILE):
    """A run in which everything that can be text is ``payload``."""
    run = recorder("results")
    metadata = {
        "patch_name": payload,
        "patch_description": payload,
        "patch_type": payload,
        "model_name": payload,
        "stderr_log": payload,
    }
    fields = {"text_feedback": payload, "metadata": metadata}
    metrics = {payload: payload, "balancedness_score": 0.8, "call_ms": 3.0}
    seed = run.add(
        0, id="seed" + payload, code=payload, combined_score=0.1, public_metrics=metrics, **fields
    )
    parent = seed
    for generation in range(1, 10):
        parent = run.add(
            generation,
            parent,
            code=f"{payload}\n{generation}",
            combined_score=generation / 10,
            public_metrics=metrics,
            archive_inspiration_ids=[seed.id],
            **fields,
        )
    run.add(10, parent, correct=False, code=payload, **fields)
    run.database.record_attempt_event(
        11, payload, "failed", {"failure_reason": payload, "model_name": payload}
    )
    return run.folder


def program(identity: str, **fields) -> Program:
    defaults = {
        "code": "",
        "parent_id": None,
        "generation": 1,
        "timestamp": 1.0,
        "correct": True,
        "score": 0.5,
    }
    return Program(id=identity, **(defaults | fields))


def timed(identity: str, balancedness: float, milliseconds: float) -> Program:
    return program(identity, public={"balancedness_score": balancedness, "call_ms": milliseconds})


def finalist(generation: int, known: float, *scores: float) -> dict:
    """As `eplb.evolution.confirm` writes it."""
    traces = [("deepseek-v3", str(2**127 + 1)), ("kimi-k2", "7")]
    return {
        "generation": generation,
        "id": f"id-{generation}",
        "name": f"edit {generation}",
        "start": generation == 0,
        "known": known,
        "fresh": sum(scores) / len(scores),
        "gap": known - sum(scores) / len(scores),
        "scores": [
            {
                "trace": trace,
                "score": score,
                "refusal": None if score else "slow",
                "seed": str(seed),
            }
            for (trace, seed), score in zip(traces, scores, strict=False)
        ],
    }


def write_confirmation(folder: Path, content: object) -> None:
    (folder / "best").mkdir(exist_ok=True)
    (folder / "best/confirmation.json").write_text(json.dumps(content), encoding="utf-8")

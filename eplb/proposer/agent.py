"""The command behind the model name ``headless/<agent>`` of ShinkaEvolve.

    python -S -E agent.py --check
    python -S -E agent.py AGENT --prompt-file FILE --work-dir FOLDER --allow read-only --usage

Prints the answer and, last, a line of JSON with the usage. ``EPLB_PROPOSER_SEED`` (default 0)
chooses the proposals. Started once a proposal, so it imports the standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

# The folder of this file would come first, where module names could hide the standard library's.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from eplb.common import UserError, exit_on_user_error  # noqa: E402
from eplb.proposer.propose import answer  # noqa: E402

SEED = "EPLB_PROPOSER_SEED"


def main() -> int:
    arguments = _parser().parse_args()
    seed = _seed()
    if arguments.check:
        print("ready")
        return 0
    if not arguments.agent or not arguments.prompt_file:
        raise UserError("nothing to do: give --check, or an agent's name and --prompt-file FILE")
    text = _read(arguments.prompt_file)
    print(answer(text, seed, _times_asked_before(arguments.prompt_file, text)))
    # The usage must be the last line: ShinkaEvolve reads the cost from it.
    print(json.dumps({"usage": {"input_tokens": 0, "output_tokens": 0, "cost": 0}}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Answer one prompt of ShinkaEvolve offline.")
    parser.add_argument("agent", nargs="?", help="the name after headless/; any will do")
    parser.add_argument("--check", action="store_true", help="say whether the command works")
    parser.add_argument("--prompt-file", type=Path)
    for ignored in ("--work-dir", "--allow", "--model", "--reasoning-effort"):
        parser.add_argument(ignored, help="accepted and not used")
    parser.add_argument("--usage", action="store_true", help="accepted; usage is always printed")
    return parser


def _seed() -> int:
    value = os.environ.get(SEED, "0")
    try:
        return int(value)
    except ValueError:
        raise UserError(f"{SEED} is {value!r}; it must be a whole number") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the prompt file {path}: {error}") from error


def _times_asked_before(path: Path, text: str) -> int:
    """How many older files beside the prompt hold the very same prompt.

    ShinkaEvolve keeps every prompt of a run in one folder. While it knows few programs it asks the
    same question again, and wants another answer.
    """
    size, asked = path.stat().st_size, (path.stat().st_mtime_ns, path.name)
    return sum(
        other.stat().st_size == size
        and (other.stat().st_mtime_ns, other.name) < asked
        and _read(other) == text
        for other in path.parent.glob("prompt_*.md")
        if other.name != path.name
    )


if __name__ == "__main__":
    exit_on_user_error(main)

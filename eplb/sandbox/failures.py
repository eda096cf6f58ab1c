"""What is told of a program's failure, where nothing that its process says can be believed.

Told are: the class of the exception, if it is Python's, numpy's or torch's; the program's lines
that led there; and of the text what Python and torch write themselves. A word of it is kept if it
is one of theirs, or a name of the program's in quotes or before a parenthesis; a number, if it is
a size of the task or stands in the program. All else is shown as "…", and what is kept stands in
quotes, as the program's words. Not covered: which line fails, and the choice among such words and
numbers, say some hundred bits of what the program saw, at the price of a score of 0.
"""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Iterable
from itertools import product

from eplb.common import printable

_LONGEST = 200
_MOST_NAMES, _MOST_NUMBERS, _MOST_LINES = 4, 10, 4
_FORBIDDEN = "the sandbox forbids threads, processes, sockets, torch.compile and writing files"
_COMPILERS = ("BackendCompilerFailed", "InductorError", "InternalTorchDynamoError")
_LIBRARIES = ("AxisError", "LinAlgError", "_LinAlgError", "OutOfMemoryError", "JSONDecodeError")
_WORDS = frozenset(
    """a add after allocate ambiguous an and are arg argument arguments arithmetic array arrays as
    at attribute axis b base be been before between bfloat16 bound bounds broadcast but by byte
    call called calling can cannot class closed code column combination compatible conversion
    convert converted could cpu cuda current data defined defines dense device dictionary did dim
    dimension dimensions dims directory division do does double dtype duplicate each element
    elements empty enough entry equal equation errno error exist expanded expect expected expecting
    expects failed file first float16 float32 float64 floating for found from full function get
    given got greater has have here if import in inconsistent indent indentation indented index
    indices infer inputs inside instances instead int16 int32 int64 integer integers integral into
    invalid is it iterable iterator key keyword larger least length less level literal log2phy
    logcnt long longer maps mask masks mat1 mat2 match matrix maximum mean memory method missing
    module more most multiplied must name nan ndarray negative never new no non none noneType not
    num_gpus num_groups num_nodes num_replicas number numpy of off on one only operand operands
    operation or order other out outer output over parentheses permitted phy2log pop position
    positional program read rebalance_experts received recursion required reshape result return
    returned returns run_eplb s same scalar self sequence shape shapes should singleton singular
    size sizes slices sparse_coo start stride string subscriptable such support supported syntax t
    tabs take takes target tensor tensors than the thread to too torch two types unable unexpected
    unhashable unindent unpack unsupported unterminated use used valid value values variable view
    weight were where which while with without x zero zip""".split()
) | set(dir(builtins))


def describe(report: bytes, source: str, sizes: Iterable[int]) -> tuple[str, list[str]]:
    """What went wrong, in one line, and the program's lines that led there, innermost last.

    report: what a program's process says: JSON with "error", "text" and the numbers "lines"
    sizes: the sizes of the task, which with their products and quotients may be told
    """
    try:
        claimed = json.loads(report)
        error, text = str(claimed["error"]), str(claimed["text"])
        numbers = [number for number in claimed["lines"] if type(number) is int]
    except (ValueError, TypeError, KeyError, RecursionError):
        return "it failed without a word", []
    code = ["", *source.split("\n")]
    numbers = [number for number in numbers[-_MOST_LINES:] if 0 < number < len(code)]
    lines = [f"line {number}: {printable(code[number], _LONGEST)}" for number in numbers]
    raised = lines and re.search(r": (raise|assert)\b", lines[-1])
    words = "" if raised else _masked(text, source, sizes)
    known = getattr(builtins, error, None)
    known = known if isinstance(known, type) and issubclass(known, BaseException) else None
    if known is None and error not in ("", *_LIBRARIES, *_COMPILERS):
        error = "an exception of its own"
    what = ": ".join(part for part in (error, words and f'"{words}"') if part)
    what += f" ({lines[-1]})" if lines else ""
    forbidden = (known and issubclass(known, OSError)) or "start new thread" in words
    return (f"{what}; {_FORBIDDEN}" if forbidden or error in _COMPILERS else what), lines


def _masked(text: str, source: str, sizes: Iterable[int]) -> str:
    """``text`` with an ellipsis for every word and number that might carry what a program saw."""
    written = set(re.findall(r"\w+", source))
    sizes = set(sizes)
    told = {a * b for a, b in product(sizes, sizes | {1})} | set(range(10))
    told |= {a // b for a, b in product(sizes, sizes - {0})}
    names, numbers = iter(range(_MOST_NAMES)), iter(range(_MOST_NUMBERS))

    def keep(match: re.Match) -> str:
        word = match[0]
        if word.isdigit():
            may = word in written or int(word) in told
            return word if may and next(numbers, None) is not None else "…"
        if word in _WORDS or word[0].lower() + word[1:] in _WORDS:
            return word
        before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
        named = after == "(" or (before in ("'", '"') and after == before)
        return word if named and word in written and next(names, None) is not None else "…"

    text = re.sub(r"[^ -~]", " ", text.strip().split("\n")[0][:_LONGEST])
    text = re.sub(r"\d+|(?<=\d)x(?=\d)|[^\W\d]\w*", keep, text)
    # Runs of signs and of ellipses say no more than their beginning.
    text = re.sub(r"([^\w\s…]{3})[^\w\s…]+|(…)(?:\W*…)+", r"\1\2", text)
    return " ".join(text.split())

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

_LONGEST = 200
_MOST_NAMES, _MOST_NUMBERS, _MOST_LINES = 4, 10, 4
_FORBIDDEN = "the sandbox forbids threads, processes, sockets, torch.compile and writing files"
_COMPILERS = {
    "BackendCompilerFailed",
    "InductorError",
    "InternalTorchDynamoError",
    "TorchRuntimeError",
}
_LIBRARIES = {"AxisError", "LinAlgError", "_LinAlgError", "OutOfMemoryError", "JSONDecodeError"}
_WORDS = frozenset(
    """a access according across add after allocate allocated already ambiguous an and appear are
    arg argument arguments arithmetic array arrays as assign associated at attempt attribute
    available axis b base be because been before between block boolean both bound bounds broadcast
    but by byte call called calling can cannot cast casting character choose class closed code
    column combination comparison compatible concatenate contiguous conversion convert converted
    convertible could cpu cuda current data defined defines definition dense depth describe
    detected device dictionary did dim dimension dimensions dims directory division do does double
    dtype duplicate each either element elements empty enough entry equal equation errno error
    exceeded exist existing expanded expect expected expecting expects experts failed file first
    float32 float64 floating for found from full function generator get given got greater has have
    here if import in inconsistent indent indentation indented index indices infer inferred
    infinity inhomogeneous initial inputs inside instance instances instead int32 int64 integer
    integers integral interpreted into invalid inversion is it item iterable iteration iterator key
    keyword larger last layers least length less level literal local log2phy logcnt long longer
    many mapping maps mask masks mat1 mat2 match matrix maximum maybe mean meant memory method
    minimum missing module more most multiplied must name named nan ndarray need needs negative
    never new no non none noneType nonzero nor not num_gpus num_groups num_nodes num_replicas
    number numpy of off on one only operand operands operation or order original other out outer
    output outside over overflow own package parentheses part partially permitted phy2log pop
    position positional positive program rank read real rebalance_experts received recursion reduce
    referenced refused replicas required requires reshape reshaped resource resources result return
    returned returns rule run_eplb s safe same scalar selected self sequence shape shapes shorter
    should signature single singleton singular size sizes slices smaller source spaces stack start
    statement stop stride string subscript subscriptable such support supported supports syntax
    system t tabs take takes target temporarily temporary tensor tensors than that the thread to
    together too torch two types unable unavailable unexpected unhashable unindent unknown unpack
    unsupported unterminated usable use used valid value values variable vector view was weight
    were where which while with without would x you your zero zip
    """.split()
) | set(dir(builtins))


def describe(report: bytes, source: str, sizes: Iterable[int]) -> tuple[str, list[str]]:
    """What went wrong, in one line, and the program's lines that led there, innermost last.

    report: what a program's process says: JSON with "error", "text" and the numbers "lines"
    sizes: the sizes of the task, which with their products and quotients may be told
    """
    try:
        claimed = json.loads(report)
        error, text, numbers = (claimed[key] for key in ("error", "text", "lines"))
        error, text = str(error), str(text)
        numbers = [n for n in numbers if type(n) is int][-_MOST_LINES:]
    except (ValueError, TypeError, KeyError, RecursionError):
        return "it failed without a word", []
    code = ["", *source.split("\n")]
    lines = [f"line {n}: {_one_line(code[n])}" for n in numbers if 0 < n < len(code)]
    raised = lines and re.search(r": (raise|assert)\b", lines[-1])
    words = "" if raised else _masked(text, source, sizes)
    kind = error if _is_known(error) else "an exception of its own" if error else ""
    what = ": ".join(part for part in (kind, words and f'"{words}"') if part)
    what += f" ({lines[-1]})" if lines else ""
    builtin = getattr(builtins, error, None)
    of_system = isinstance(builtin, type) and issubclass(builtin, OSError)
    if of_system or error in _COMPILERS or "start new thread" in words:
        what += f"; {_FORBIDDEN}"
    return what, lines


def _is_known(error: str) -> bool:
    known = getattr(builtins, error, None)
    is_builtin = isinstance(known, type) and issubclass(known, BaseException)
    return is_builtin or error in _LIBRARIES | _COMPILERS


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_LONGEST]


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

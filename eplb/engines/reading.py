"""Checks that hold for the content of every format, and the words for what is wrong.

Covered: token counts (text, NaN, negative, fractions, shapes) and rows of expert ids. Not covered:
where in a file they stand (the formats' modules).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Real

import numpy as np

from eplb.common import UserError
from eplb.engines.model import EnginePlacement, ExpertStatistics
from eplb.engines.source import Source
from eplb.jsonstream import table_of
from eplb.placement import expert_fault

# Of a whole recording; a trace has a smaller bound for each of its records.
MOST_TOKENS = 2**53
# Fractions are scaled until a layer has about this many tokens, so that rounding loses nothing.
SCALED_TOKENS = 1e6


def statistics_of(
    source: Source,
    values: object,
    layers: Sequence[int] | None = None,
    first_iteration: int = 0,
    **known,
) -> ExpertStatistics:
    """Statistics of ``values`` [layers, experts] or [iterations, layers, experts].

    layers: the number of each row in the model; None where rows are the MoE layers alone
    known: further fields of `ExpertStatistics`

    Raises `UserError` with iteration, layer and expert for the first value that is no count.
    """
    counts = array_of(source, values, layers)
    if counts.ndim == 2:
        counts = counts[None]
    if counts.ndim != 3 or 0 in counts.shape:
        raise UserError(
            f"{source}: counts have shape {list(counts.shape)}; "
            f"they must be [layers, experts] or [iterations, layers, experts]"
        )
    numbers = range(counts.shape[1]) if layers is None else layers
    fault = count_fault(counts, numbers, first_iteration)
    if fault is not None:
        raise UserError(f"{source}: {fault}")
    if not counts.any():
        raise UserError(f"{source}: no expert received any token; record under load")
    counts, scale = _whole(counts)
    if scale != 1:
        note = f"{source} holds fractions, averages or shares; tokens are shown times {scale:.0f}"
        known["notes"] = (*known.get("notes", ()), note)
    return ExpertStatistics(
        counts, tuple(numbers), first_iteration, moe_layers_only=layers is None, **known
    )


def array_of(source: Source, values: object, layers: Sequence[int] | None) -> np.ndarray:
    """``values`` as an array of any shape, with the numbers of its rows for the words."""
    if hasattr(values, "detach"):
        # numpy has no bfloat16; a float64 holds every count that passes the checks.
        values = values.double() if values.is_floating_point() else values
        try:
            return values.detach().numpy()
        except (TypeError, RuntimeError) as error:
            raise UserError(f"{source} holds no plain array of numbers ({error})") from error
    values = plain_rows(values)
    try:
        return np.asarray(values)
    except (ValueError, OverflowError) as error:
        lengths = [len(row) if hasattr(row, "__len__") else 0 for row in values]
        odd = next((row for row, n in enumerate(lengths) if n != lengths[0]), 0)
        raise UserError(
            f"{source}: rows have different lengths, {layers[odd] if layers else odd} has "
            f"{lengths[odd]} values and the first one {lengths[0]}: no counts of one model"
        ) from error


def plain_rows(values: object) -> object:
    """``values``, but arrays and tensors in a list as lists, which numpy would not take apart."""
    if isinstance(values, (list, tuple)):
        return [row.tolist() if hasattr(row, "tolist") else row for row in values]
    return values


def count_fault(counts: np.ndarray, layers: Sequence[int], first_iteration: int = 0) -> str | None:
    """What is not a token count in ``counts`` [iterations, layers, experts], if anything."""
    numbers, odd = counts, np.zeros(counts.shape, dtype=bool)
    if counts.dtype.kind not in "iuf":
        odd.flat = [isinstance(each, bool) or not isinstance(each, Real) for each in counts.flat]
        # Python's integers know no bound, and a float64 does.
        numbers = np.where(odd, 0, counts.astype(object)).clip(-1, MOST_TOKENS).astype(np.float64)
    faults = {
        "is {!r}, not a number": odd,
        "is {}, not a count; the recording or its export failed": ~np.isfinite(numbers),
        "is {}, negative: a 32-bit counter overflowed, or it is no count": numbers < 0,
        "is {}; no recording has so many": numbers >= MOST_TOKENS,
    }
    words = next((words for words, bad in faults.items() if bad.any()), None)
    if words is None:
        return None
    iteration, row, expert = np.argwhere(faults[words])[0]
    where = f"layer {layers[row]}, expert {expert}"
    if len(counts) > 1:
        where = f"iteration {first_iteration + iteration}, {where}"
    value = counts[iteration, row, expert]
    value = value.item() if hasattr(value, "item") else value
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    return f"the token count of {where} " + words.format(value)


def _whole(counts: np.ndarray) -> tuple[np.ndarray, float]:
    """``counts`` as int64, and the power of ten that fractions were multiplied with."""
    scale = 1.0
    if counts.dtype.kind == "f" and (counts != np.rint(counts)).any():
        busiest = counts.sum(axis=2, dtype=np.float64).max()
        scale = 10.0 ** max(0, np.ceil(np.log10(SCALED_TOKENS / busiest)))
        counts = np.rint(counts * scale)
    return np.ascontiguousarray(counts, dtype=np.int64), scale


def gaps(statistics: ExpertStatistics) -> ExpertStatistics:
    """``statistics`` with notes on what of them holds no token."""
    used = statistics.loads.any(axis=0)
    idle = [n for n, row in zip(statistics.layers, used, strict=True) if not row.any()]
    if len(idle) == len(used):
        raise UserError("no expert received any token in these iterations; choose others")
    notes, left_out = [], "left out of averages"
    if idle:
        notes.append(f"no token in {many('layer', idle)}: {left_out}, and experts stay in order")
    empty = statistics.first_iteration + np.flatnonzero(~statistics.loads.any(axis=(1, 2)))
    if empty.size:
        notes.append(f"no token in {many('iteration', empty.tolist())}: {left_out}")
    unused = 1 - used[used.any(axis=1)].mean()
    if unused > 0.5:
        notes.append(
            f"{unused:.0%} of the experts never got a token; if this is the dump of one rank of "
            f"many, add the others, else record for longer"
        )
    return replace(statistics, notes=(*statistics.notes, *notes))


def many(unit: str, numbers: list[int]) -> str:
    """Ascending numbers of something in words: "layers 2, 4 to 7"."""
    return f"{unit}{'s'[: len(numbers) > 1]} {spans(numbers)}"


def spans(numbers: list[int]) -> str:
    """Ascending numbers in words: "2, 4 to 7"."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    parts = np.split(np.asarray(numbers), breaks)
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]} to {p[-1]}" for p in parts)


def placement_of(
    source: Source, rows: object, layers: Sequence[int] | None = None, **known
) -> EnginePlacement:
    """The placement of a file's ``rows`` of expert ids.

    layers: the number of each row, from 0 on by default
    known: further fields of `EnginePlacement`

    Every row must have the same length and hold every expert. There are as many experts as the
    highest id tells, since no file says how many.
    """
    rows = rows.tolist() if hasattr(rows, "tolist") else plain_rows(rows)
    phy2log = table_of(rows, f"{source}: the map of experts", "slot", layers=layers)
    layers = range(len(phy2log)) if layers is None else layers
    num_experts = int(phy2log.max()) + 1
    if num_experts > phy2log.shape[1]:
        raise UserError(
            f"{source}: {phy2log.shape[1]} slots cannot hold {num_experts} experts, "
            f"0 to {num_experts - 1}; it is cut or malformed"
        )
    fault = expert_fault(phy2log, num_experts, layers)
    if fault is not None:
        raise UserError(f"{source}: {fault}")
    return EnginePlacement(phy2log, tuple(layers), num_experts, **known)

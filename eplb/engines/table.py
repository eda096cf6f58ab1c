"""Tables of token counts as text: comma, semicolon, tab or blanks between columns.

A long table has columns for layer, expert and count, and may have one for the iteration; rows of
the same cell add up, and other columns are not looked at. SGLang's older releases write such
files, ``expert_distribution_rank<R>_timestamp<T>.csv``: in a folder of them the ranks add up and
the times are iterations. A wide table has a row a layer and a column an expert, and may have a
header and a first column of layer numbers; MindIE writes such ones. Not covered: writing
tables, and placements.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict

import numpy as np

from eplb.common import UserError
from eplb.engines.model import ExpertStatistics, Format
from eplb.engines.reading import statistics_of
from eplb.engines.source import Source

SGLANG = re.compile(r"expert_distribution_rank(\d+)_timestamp(\d+(?:\.\d+)?)\.csv")
NUMBERED = r"(?:[ _]?(?:id|idx|index|number))?"
ROLES = {
    "iteration": re.compile(rf"iter(?:ation)?{NUMBERED}|step|forward_pass_id"),
    "layer": re.compile(rf"(?:moe_)?layer{NUMBERED}"),
    "expert": re.compile(rf"(?:logical_)?experts?{NUMBERED}"),
    "count": re.compile(r"(?:token|expert|num)?_?(?:counts?|tokens?|loads?)"),
}


def recognises(source: Source) -> bool:
    if source.is_folder:
        return bool(source.files(SGLANG))
    if not source.head or source.looks_like_json or b"\0" in source.head:
        return False
    header, *rest = _split(source.head.decode(errors="replace").splitlines()[:3])
    cells = rest[0] if rest else header
    numbers = sum(map(_is_number, cells))
    return len(cells) > 1 and ("expert" in _roles(header) or numbers > len(cells) // 2)


def read(source: Source) -> ExpertStatistics:
    if source.is_folder:
        return _sglang(source)
    header, body = _rows(source)
    roles = _roles(header)
    if "expert" in roles:
        note = f"{source} is one rank's at one time; give the folder to add up all of them"
        notes = (note,) if SGLANG.fullmatch(source.path.name) else ()
        return _of_cells(source, _cells(source, header, body), notes)
    if not header and body.shape[1] == 3:
        raise UserError(f"{source} has three columns and no header; add layer_id,expert_id,count")
    numbers = _numbers(source, body)
    if "layer" in _roles(header[:1]):
        return statistics_of(source, numbers[:, 1:], numbers[:, 0].astype(int).tolist())
    has_index = header and header[0].lower() in ("", "index")
    return statistics_of(source, numbers[:, 1:] if has_index else numbers)


def _sglang(source: Source) -> ExpertStatistics:
    dumps = defaultdict(list)
    for path, match in source.files(SGLANG).items():
        dumps[int(match[1])].append((float(match[2]), path))
    cells = []
    for paths in dumps.values():
        # Ranks write at slightly different times, but equally often.
        for iteration, (_, path) in enumerate(sorted(paths)):
            table = Source(path)
            cells.append(_cells(table, *_rows(table)) + (iteration, 0, 0, 0))
    numbers = {len(paths) for paths in dumps.values()}
    note = f"{source}: ranks wrote {min(numbers)} to {max(numbers)} dumps"
    return _of_cells(source, np.concatenate(cells), (note,) if len(numbers) > 1 else ())


def _split(lines: list[str]) -> list[list[str]]:
    """The cells of each line that has any; numpy's savetxt puts blanks between them."""
    lines = [line for line in lines if line.strip() and not line.startswith("#")] or [""]
    delimiter = max(",;\t", key=lines[0].count)
    if delimiter not in lines[0]:
        return [line.split() for line in lines]
    return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]


def _is_number(cell: str) -> bool:
    try:
        return float(cell) is not None
    except ValueError:
        return False


def _rows(source: Source) -> tuple[list[str], np.ndarray]:
    """The header, if there is one, and the cells [rows, columns]."""
    rows = _split(source.text.splitlines())
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise UserError(f"{source}: row {number} has {len(row)} columns, not {len(rows[0])}")
    header = [] if all(map(_is_number, rows[0])) else rows.pop(0)
    if not rows:
        raise UserError(f"{source} has a header and no rows; record under load")
    return header, np.array(rows)


def _roles(header: list[str]) -> dict[str, int]:
    """The column of each role that the header names."""
    return {
        role: column
        for column, name in reversed([*enumerate(header)])
        for role, pattern in ROLES.items()
        if pattern.fullmatch(name.lower())
    }


def _numbers(source: Source, cells: np.ndarray) -> np.ndarray:
    try:
        return cells.astype(np.float64)
    except ValueError as error:
        row, cell = next((n, c) for n, r in enumerate(cells, 1) for c in r if not _is_number(c))
        raise UserError(f"{source}: {str(cell)!r} in row {row} is not a number") from error


def _cells(source: Source, header: list[str], body: np.ndarray) -> np.ndarray:
    """[rows, 4] float64: iteration, layer, expert and count of a long table."""
    roles = _roles(header)
    missing = [role for role in ROLES if role not in roles and role != "iteration"]
    if missing:
        raise UserError(
            f"{source} has no column for the {missing[0]}, only {', '.join(header)}; "
            f"name its columns layer_id, expert_id, count"
        )
    empty = np.full(len(body), "0")
    columns = [body[:, roles[role]] if role in roles else empty for role in ROLES]
    cells = _numbers(source, np.stack(columns, axis=1))
    bad = np.flatnonzero(~((cells[:, :3] >= 0) & (cells[:, :3] % 1 == 0)).all(axis=1))
    if bad.size:
        raise UserError(f"{source}: row {bad[0] + 1} has no whole layer and expert number")
    return cells


def _of_cells(source: Source, cells: np.ndarray, notes: tuple[str, ...]) -> ExpertStatistics:
    """Statistics with a row for each layer up to the last; what is not listed got no token."""
    place = cells[:, :3].astype(int)
    first = int(place[:, 0].min())
    place[:, 0] -= first
    shape = place.max(axis=0) + 1
    if shape.prod() > 100 * len(cells) + 10**6:
        raise UserError(f"{source}: {len(cells)} rows cannot be {shape.tolist()} of a recording")
    counts = np.zeros(shape)
    np.add.at(counts, tuple(place.T), cells[:, 3])
    return statistics_of(
        source, counts, range(shape[1]), first, model_layers=int(shape[1]), notes=notes
    )


FORMAT = Format("table", recognises, read)

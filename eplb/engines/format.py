"""What a file format is to this project; `eplb.engines.registry` lists them all.

A new format is a module with a `Format` and its name in that list. For statistics `recognises`
looks at the `Source` (its name, keys or first bytes) and `read` ends in
`eplb.engines.reading.statistics_of`, which checks the counts and puts every fault into words::

    def read(source: Source) -> ExpertStatistics:
        return statistics_of(source, source.content["tokens"])

    FORMAT = Format("my-engine", lambda source: source.has("tokens"), read)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eplb.engines.model import EnginePlacement, ExpertStatistics
from eplb.engines.source import Source


@dataclass(frozen=True)
class Format:
    """One kind of file.

    recognises: whether the source is of this kind; must not raise for a well-formed file of another
    read: the content; raises `UserError` that names the source
    write_placement, write_statistics: None where there is no such file; a format with both is
        asked for placements
    suffixes: of the files that are written
    how_to_use: what to do with a written file, with {path}, {slots} and {spare} (slots beyond the
        experts)
    one_replica_per_gpu: whether the engine takes a single replica of an expert per GPU
    numbers_moe_layers: whether dense layers have no number
    """

    name: str
    recognises: Callable[[Source], bool]
    read: Callable[[Source], ExpertStatistics | EnginePlacement]
    write_placement: Callable[[Path, EnginePlacement], None] | None = None
    write_statistics: Callable[[Path, ExpertStatistics], None] | None = None
    suffixes: tuple[str, ...] = ()
    how_to_use: str = ""
    one_replica_per_gpu: bool = False
    numbers_moe_layers: bool = False

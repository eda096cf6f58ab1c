"""Every format by its name: which one a file is in, and how it is read.

To add one see `eplb.engines.model.Format`; the first that recognises a source reads it.
"""

from __future__ import annotations

from pathlib import Path

from eplb.common import UserError
from eplb.engines import counts, sglang, table, tensorrt_llm, trace, vllm_ascend, vllm_proposals
from eplb.engines.model import EnginePlacement, ExpertStatistics
from eplb.engines.reading import gaps
from eplb.engines.source import Source

FORMATS = {
    form.name: form
    for form in (
        # Folders and large files first, which their names and first bytes tell.
        tensorrt_llm.FORMAT,
        vllm_proposals.MAPPING_FORMAT,
        trace.FORMAT,
        table.FORMAT,
        sglang.FORMAT,
        vllm_ascend.FORMAT,
        vllm_proposals.EXPERT_MAP_FORMAT,
        # Last, since it takes any array.
        counts.FORMAT,
    )
}
WRITTEN = [name for name, form in FORMATS.items() if form.suffixes]


def output_format(path: Path, name: str | None) -> str:
    """The name of the format to write at ``path``: the one asked for, or the suffix's only one."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the file to write")
    fits = [known for known in WRITTEN if path.suffix in FORMATS[known].suffixes]
    if name is None and len(fits) != 1:
        known = ", ".join(fits or WRITTEN)
        raise UserError(f"{path.name} does not tell its format; give --format, one of {known}")
    name = name or fits[0]
    if name not in fits:
        suffixes = " or ".join(FORMATS[name].suffixes)
        raise UserError(f"{name} files end in {suffixes}, not as {path.name} does; rename it")
    return name


def detect(source: Source) -> str:
    """The name of the format of ``source``, by its content."""
    for name, known in FORMATS.items():
        if known.recognises(source):
            return name
    raise UserError(
        f"{source} is {source.describe()}, which is in no known format; "
        + ("give one of its files, or " * source.is_folder)
        + 'convert statistics to JSON {"weight": [[tokens of each expert] of each MoE layer]}'
    )


def _read(path: Path) -> ExpertStatistics | EnginePlacement:
    source = Source(path)
    return FORMATS[detect(source)].read(source)


def read_statistics(
    path: Path,
    start: int | None = None,
    stop: int | None = None,
    first_moe_layer: int | None = None,
) -> ExpertStatistics:
    """`ExpertStatistics` of any engine, iterations ``start`` to ``stop`` (exclusive).

    first_moe_layer: see `ExpertStatistics.numbered`
    """
    content = _read(path)
    if not isinstance(content, ExpertStatistics):
        raise UserError(f"{path} holds a placement, not statistics; give the recording")
    return gaps(content.numbered(first_moe_layer).between(start, stop))


def read_placement(path: Path) -> EnginePlacement:
    content = _read(path)
    if not isinstance(content, EnginePlacement):
        raise UserError(f"{path} holds statistics, not a placement; give the placement file")
    return content

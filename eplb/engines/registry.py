"""Every format by its name: which one a file is in, and how it is read.

To add one see `eplb.engines.model.Format`; the first that recognises a source reads it. Not
covered: what the formats are (their modules).
"""

from __future__ import annotations

from pathlib import Path

from eplb.common import UserError
from eplb.engines import counts, sglang, table, tensorrt_llm, trace, vllm_ascend, vllm_proposals
from eplb.engines.model import EnginePlacement, ExpertStatistics, Format
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
# What a file is asked for, and the way out where it holds nothing of the kind.
KINDS = {
    ExpertStatistics: (
        "statistics",
        'convert them to JSON {"weight": [[tokens of each expert] of each MoE layer]}',
    ),
    EnginePlacement: (
        "placements",
        "give the file that the engine deploys, such as generate_eplb_config.py writes",
    ),
}
WRITTEN = [name for name, form in FORMATS.items() if form.suffixes]


def output_format(path: Path, name: str | None) -> Format:
    """The format to write at ``path``: that of ``name``, or the only one with the suffix."""
    fits = [known for known in WRITTEN if path.suffix in FORMATS[known].suffixes]
    if name is None and len(fits) != 1:
        known = ", ".join(fits or WRITTEN)
        raise UserError(f"{path.name} does not tell its format; give --format, one of {known}")
    form = FORMATS[name or fits[0]]
    if path.suffix not in form.suffixes:
        suffixes = " or ".join(form.suffixes)
        raise UserError(f"{name} files end in {suffixes}, not as {path.name} does; rename it")
    return form


def detect(source: Source) -> str | None:
    """The name of the format of ``source``, by its content."""
    return next((name for name, form in FORMATS.items() if form.recognises(source)), None)


def _read(path: Path, kind: type) -> ExpertStatistics | EnginePlacement:
    """The content of ``path``; `UserError` where it cannot be read, or is not of ``kind``."""
    name, way_out = KINDS[kind]
    try:
        source = Source(path)
        form = FORMATS.get(detect(source))
        # Bare counts take whatever no other format does.
        if form is None or (kind is EnginePlacement and form is counts.FORMAT):
            raise UserError(
                f"{source} is {source.describe()}, which is in no known format of {name}; "
                + ("give one of its files, or " * source.is_folder + way_out)
            )
        content = form.read(source)
    except OSError as error:
        where = f"cannot read {error.filename or path}: {error.strerror}"
        raise UserError(f"{where}; give one that can be read") from error
    if not isinstance(content, kind):
        found, _ = KINDS[type(content)]
        raise UserError(f"{path} holds {found}, not {name}; give a file of {name}")
    return content


def read_statistics(
    path: Path,
    start: int | None = None,
    stop: int | None = None,
    first_moe_layer: int | None = None,
) -> ExpertStatistics:
    """`ExpertStatistics` of any engine, iterations ``start`` to ``stop`` (exclusive).

    first_moe_layer: see `ExpertStatistics.numbered`
    """
    content = _read(path, ExpertStatistics)
    return gaps(content.numbered(first_moe_layer).between(start, stop))


def read_placement(path: Path) -> EnginePlacement:
    """`EnginePlacement` of any engine."""
    return _read(path, EnginePlacement)

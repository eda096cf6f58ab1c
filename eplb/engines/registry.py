"""Every format by its name: how to recognise, read and write it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eplb.common import UserError
from eplb.engines import counts, sglang, tensorrt_llm, trace, vllm_ascend
from eplb.engines.model import EnginePlacement, ExpertStatistics
from eplb.engines.source import Source


@dataclass(frozen=True)
class Format:
    """One engine's files.

    suffixes: of its files; folders need none
    holds_placements: whether there is a placement file, or statistics only
    one_replica_per_gpu: whether the engine takes a single replica of an expert per GPU
    numbers_moe_layers: whether dense layers have no number
    how_to_use: what to tell the engine, with {path}, {slots} and {spare} (slots beyond the experts)
    """

    recognises: Callable[[Source], bool]
    read: Callable[[Source, int | None, int | None], ExpertStatistics | EnginePlacement]
    write: Callable[[Path, ExpertStatistics | EnginePlacement], None]
    how_to_use: str
    suffixes: tuple[str, ...]
    holds_placements: bool = True
    one_replica_per_gpu: bool = False
    numbers_moe_layers: bool = False


def _format(module, how_to_use: str, **rules) -> Format:
    parts = (module.recognises, module.read, module.write, how_to_use, module.SUFFIXES)
    return Format(*parts, **rules)


FORMATS = {
    "tensorrt-llm": _format(
        tensorrt_llm,
        "TensorRT-LLM reads it with moe_config.load_balancer: {path} in the LLM API options; it "
        "leaves EPLB off without a word unless the model's architecture supports it, ep_size is "
        "greater than 1 and enable_attention_dp is true",
    ),
    # Before the other JSON formats: a trace is large, and its first bytes tell it.
    "trace": _format(
        trace,
        "score programs on it with: python evaluate.py --trace {path}",
        holds_placements=False,
        numbers_moe_layers=True,
    ),
    "sglang": _format(
        sglang,
        "SGLang reads it with --init-expert-location {path} --ep-num-redundant-experts {spare}",
    ),
    "vllm-ascend": _format(
        vllm_ascend,
        'vllm-ascend reads it with --additional-config \'{{"eplb_config": {{"expert_map_path": '
        '"{path}"}}}}\'',
        one_replica_per_gpu=True,
        numbers_moe_layers=True,
    ),
    "counts": _format(counts, "{path} holds token counts", holds_placements=False),
}


def output_format(path: Path, name: str | None) -> str:
    """The name of the format to write at ``path``: the one asked for, or the suffix's only one."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the file to write")
    fits = [known for known, form in FORMATS.items() if path.suffix in form.suffixes]
    if name is None and len(fits) == 1:
        return fits[0]
    if name is None:
        raise UserError(
            f"{path.name} does not tell its format; give --format, one of "
            f"{', '.join(fits or FORMATS)}"
        )
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
        f"{source} is in no known format; it should be a folder of rank<R>.safetensors, a SGLang "
        f"recording or location file, an expert_map.json, a YAML of TensorRT-LLM, counts or a trace"
    )


def read_statistics(path: Path, start: int | None = None, stop: int | None = None):
    """`ExpertStatistics` of any engine, iterations ``start`` to ``stop`` (exclusive)."""
    source = Source(path)
    content = FORMATS[detect(source)].read(source, start, stop)
    if not isinstance(content, ExpertStatistics):
        raise UserError(f"{path} holds a placement, not statistics; give the recording")
    return content


def read_placement(path: Path) -> EnginePlacement:
    source = Source(path)
    content = FORMATS[detect(source)].read(source, None, None)
    if not isinstance(content, EnginePlacement):
        raise UserError(f"{path} holds statistics, not a placement; give the placement file")
    return content

"""TensorRT-LLM: expert statistics and the load balancer's configuration file.

Statistics are the folder that ``EXPERT_STATISTIC_PATH`` makes the engine write:
``meta_info.json`` (``num_experts``, ``num_experts_per_token``) and one ``rank<R>.safetensors`` per
rank with a tensor ``"<iteration>_<layer>"`` [experts] each: the tokens that this rank routed to
each expert. The ranks add up, over the union of their tensors: ranks of pipeline stages have other
layers, a rank may stop an iteration earlier, an MTP layer may start later. ``*_raw.safetensors``
files hold something else and are not read.

The configuration is the YAML file that ``moe_config: load_balancer:`` names, or that stands there
itself: ``num_slots``, ``layer_updates_per_iter`` and ``initial_global_assignments``, a map from
layer number to ``num_slots`` expert ids, ``num_slots / ep_size`` consecutive ids per rank.

Source: TensorRT-LLM's documentation of its expert load balancer (examples/ep_load_balancer). The
package is not plain Python, so nothing here was tried against a release.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import yaml
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from eplb.common import UserError, check_writable, replacing, write_text
from eplb.engines.model import EnginePlacement, ExpertStatistics, Format
from eplb.engines.reading import count_fault, many, placement_of, statistics_of
from eplb.engines.source import Source
from eplb.trace import TraceHeader

META, RANK_FILE = "meta_info.json", re.compile(r"rank(\d+)\.safetensors")
TENSOR = re.compile(r"(\d+)_(\d+)")
CONFIG = re.compile(rb"^\s*(num_slots|initial_global_assignments|load_balancer)\s*:", re.MULTILINE)
# libyaml's parser and emitter where PyYAML was built with them: ten times faster, same result.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
Cell = tuple[int, int]  # iteration, layer


def recognises(source: Source) -> bool:
    if source.is_folder:
        return (source.path / META).exists() or bool(source.files(RANK_FILE))
    return not source.looks_like_json and bool(CONFIG.search(source.head))


def read_statistics(source: Source) -> ExpertStatistics:
    """Add up the ranks' files one by one: memory holds the sum and one file's tensors."""
    meta = Source(source.path / META).content
    if not isinstance(meta, dict) or not isinstance(meta.get("num_experts"), int):
        raise UserError(f"{source.path / META} does not give num_experts; record again")
    files = _rank_files(source)
    sums: dict[Cell, np.ndarray] = {}
    ranks_with: Counter[Cell] = Counter()
    ranks_of: Counter[int] = Counter()
    for path in tqdm(files, desc="reading ranks", unit="file", disable=None):
        counts = _counts(path, meta["num_experts"])
        ranks_with.update(counts.keys())
        ranks_of.update({layer for _, layer in counts})
        for cell, row in counts.items():
            sums[cell] = sums[cell] + row if cell in sums else row
    iterations, layers = (sorted(set(numbers)) for numbers in zip(*sums, strict=True))
    first, last = iterations[0], iterations[-1]
    if last - first >= 2 * len(iterations) + 1000:
        raise UserError(
            f"{source} holds iterations {first} to {last} but only {len(iterations)} of them; put "
            f"recordings made apart in folders of their own"
        )
    loads = np.zeros((last - first + 1, len(layers), meta["num_experts"]), np.int64)
    for (iteration, layer), row in sums.items():
        loads[iteration - first, layers.index(layer)] = row
    # Only the ranks of one stage share its layers.
    ranks = max(ranks_of.values())
    notes = []
    if ranks < len(files):
        notes.append(f"{source}: the ranks hold different layers, as those of pipeline stages do")
    partial = {i for (i, layer), found in ranks_with.items() if found < ranks_of[layer]}
    if partial:
        which = many("iteration", sorted(partial))
        notes.append(f"{source}: not all ranks recorded {which}; what there is was added up")
    header = TraceHeader(
        # A single rank may have recorded by itself.
        num_gpus=ranks if ranks > 1 else None,
        top_k=meta.get("num_experts_per_token"),
        steps_per_record=1,
    )
    return statistics_of(source, loads, layers, first, header=header, notes=tuple(notes))


def _rank_files(source: Source) -> list[Path]:
    """The statistics files in order of their ranks, complete from rank 0."""
    found = {int(match[1]): path for path, match in source.files(RANK_FILE).items()}
    if not found:
        raise UserError(f"{source} holds no rank<R>.safetensors; give the folder of the dump")
    missing = sorted(set(range(max(found) + 1)) - set(found))
    if missing:
        raise UserError(
            f"{source} lacks rank{missing[0]}.safetensors ({len(found)} of {max(found) + 1} ranks "
            f"found); copy the files of all nodes into one folder"
        )
    return [found[rank] for rank in sorted(found)]


def _counts(path: Path, num_experts: int) -> dict[Cell, np.ndarray]:
    """[experts] int64 of each tensor of a file, checked together since a recording has many."""
    tensors = _tensors(path)
    parsed = {name: TENSOR.fullmatch(name) for name in tensors}
    odd = next((name for name, match in parsed.items() if match is None), None)
    if odd is not None:
        raise UserError(f"{path}: tensor {odd!r} is not named <iteration>_<layer>; record again")
    if not tensors:
        raise UserError(f"{path} holds no tensor; check EXPERT_STATISTIC_ITER_RANGE")
    for name, counts in tensors.items():
        if counts.shape != (num_experts,):
            raise UserError(
                f"{path}: {name} has shape {list(counts.shape)}, meta_info.json says {num_experts} "
                f"experts; the files belong to different models"
            )
    cells = [(int(match[1]), int(match[2])) for match in parsed.values()]
    counts = np.stack(list(tensors.values()))
    fault = count_fault(counts[None], [f"{n} in iteration {i}" for i, n in cells])
    if fault is None and counts.dtype.kind == "f" and (counts % 1).any():
        fault = "holds token counts that are not whole numbers; record token counts"
    if fault is not None:
        raise UserError(f"{path}: {fault}")
    return dict(zip(cells, counts.astype(np.int64), strict=True))


def _tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except TypeError:
        # numpy has no bfloat16; torch, slow to import, has.
        from safetensors.torch import load_file as load_torch_file

        return {name: tensor.double().numpy() for name, tensor in load_torch_file(path).items()}
    except SafetensorError as error:
        raise UserError(
            f"{path} is truncated or not safetensors ({error}); copy it again"
        ) from error


def check_vacant(folder: Path) -> None:
    """Raise `UserError` where statistics cannot be written, or would add to an older recording."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; statistics are a folder, choose another name")
    if any(folder.glob("rank*.safetensors")):
        raise UserError(
            f"{folder} already holds statistics, and ranks add up; choose another folder"
        )
    check_writable(folder / META)


def write_statistics(folder: Path, statistics: ExpertStatistics) -> None:
    """Write ``statistics`` as the folder of a single rank."""
    tensors = {
        f"{iteration}_{layer}": np.ascontiguousarray(counts)
        for iteration, rows in zip(statistics.iterations, statistics.loads, strict=True)
        for layer, counts in zip(statistics.layers, rows, strict=True)
    }
    meta = {"num_experts": statistics.num_experts, "num_experts_per_token": statistics.header.top_k}
    write_text(folder / META, json.dumps(meta) + "\n")
    with replacing(folder / "rank0.safetensors") as partial:
        save_file(tensors, partial)


def read_placement(source: Source) -> EnginePlacement:
    """Read a configuration by the engine's rules: full lists, and every expert in each."""
    config = _config(source)
    assignments, slots = config.get("initial_global_assignments"), config.get("num_slots")
    if not assignments and slots:
        raise UserError(
            f"{source} places nothing: it has num_slots {slots} and no initial_global_assignments, "
            f"so the engine starts with experts in order and moves them while it serves; report "
            f"without a placement shows that start"
        )
    if not isinstance(assignments, dict) or not assignments:
        raise UserError(f"{source} has no initial_global_assignments; generate it again")
    if not all(isinstance(layer, int) and layer >= 0 for layer in assignments):
        raise UserError(f"{source}: initial_global_assignments must map layer numbers to lists")
    layers = sorted(assignments)
    updates = config.get("layer_updates_per_iter", 0)
    rows = [assignments[layer] for layer in layers]
    placement = placement_of(source, rows, layers, layer_updates_per_iter=updates)
    if slots != (found := placement.phy2log.shape[1]):
        raise UserError(
            f"{source}: num_slots is {slots}, the lists have {found} expert ids; generate it again"
        )
    return placement


def _config(source: Source) -> dict:
    """The balancer's own part of the file."""
    try:
        config = yaml.load(source.text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{source} is not valid YAML ({error}); generate it again") from error
    for key in ("moe_config", "load_balancer"):
        if isinstance(config, dict) and key in config:
            config = config[key]
    if isinstance(config, str):
        raise UserError(f"{source} only names the balancer's file, {config}; give that one")
    return config if isinstance(config, dict) else {}


def write_placement(path: Path, placement: EnginePlacement) -> None:
    config = {
        "num_slots": placement.phy2log.shape[1],
        "layer_updates_per_iter": placement.layer_updates_per_iter,
        "initial_global_assignments": dict(zip(placement.layers, placement.phy2log.tolist())),
    }
    # default_flow_style=None writes the innermost lists inline and everything around them in lines.
    style = {"default_flow_style": None, "sort_keys": False, "width": 1 << 30}
    write_text(path, yaml.dump(config, Dumper=_Dumper, **style))


FORMAT = Format(
    "tensorrt-llm",
    recognises,
    lambda source: read_statistics(source) if source.is_folder else read_placement(source),
    write_placement,
    suffixes=(".yaml", ".yml"),
    how_to_use="TensorRT-LLM reads it with moe_config.load_balancer: {path} in the LLM API "
    "options; it leaves EPLB off without a word unless the model's architecture supports it, "
    "ep_size is greater than 1 and enable_attention_dp is true",
)

"""TensorRT-LLM: expert statistics and the load balancer's configuration file.

Statistics are the folder that ``EXPERT_STATISTIC_PATH`` makes the engine write:
``meta_info.json`` (``num_experts``, ``num_experts_per_token``) and one ``rank<R>.safetensors`` per
rank with a tensor ``"<iteration>_<layer>"`` [experts] each: the tokens that this rank routed to
each expert. The ranks add up. ``*_raw.safetensors`` files hold something else and are not read.

The configuration is the YAML file that ``moe_config: load_balancer:`` names: ``num_slots``,
``layer_updates_per_iter`` and ``initial_global_assignments``, a map from layer number to
``num_slots`` expert ids, ``num_slots / ep_size`` consecutive ids per rank.

Source: TensorRT-LLM's documentation of its expert load balancer (examples/ep_load_balancer). The
package is not plain Python, so nothing here was tried against a release.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from eplb.common import UserError, replacing, write_text
from eplb.engines.model import EnginePlacement, ExpertStatistics, checked_rows, whole_counts
from eplb.engines.source import Source

RANK_FILE = re.compile(r"rank(\d+)\.safetensors")
SUFFIXES = (".yaml", ".yml")
KEY = re.compile(r"(\d+)_(\d+)")
# libyaml's parser and emitter where PyYAML was built with them: ten times faster, same result.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def recognises(source: Source) -> bool:
    if source.is_folder:
        return bool(source.files("meta_info.json") or source.files("rank*.safetensors"))
    is_config = b"initial_global_assignments" in source.head or b"num_slots" in source.head
    return is_config and not source.looks_like_json


def read(
    source: Source, start: int | None = None, stop: int | None = None
) -> ExpertStatistics | EnginePlacement:
    """Read a statistics folder (iterations ``start`` to ``stop``, exclusive) or a configuration."""
    return read_statistics(source, start, stop) if source.is_folder else read_placement(source)


def write(path: Path, content: ExpertStatistics | EnginePlacement) -> None:
    if isinstance(content, EnginePlacement):
        write_placement(path, content)
    else:
        write_statistics(path, content)


def read_statistics(source: Source, start: int | None, stop: int | None) -> ExpertStatistics:
    """Add up the ranks' files, tensor by tensor: memory holds the sum and one tensor.

    Raises `UserError` for missing ranks, gaps in the iterations, broken files and differing
    numbers of experts.
    """
    meta = Source(source.path / "meta_info.json").json
    if not isinstance(meta, dict) or not isinstance(meta.get("num_experts"), int):
        raise UserError(f"{source.path / 'meta_info.json'} does not give num_experts; record again")
    files = _rank_files(source)
    with _open(files[0]) as file:
        names = _names(file, files[0])
    known, layers = _complete(files[0], names)
    frame = ExpertStatistics(np.empty((len(known), 0, 0)), tuple(layers), known.start)
    chosen = frame.between(start, stop).iterations
    rows = [[names[iteration, layer] for layer in layers] for iteration in chosen]
    loads = np.zeros((len(chosen), len(layers), meta["num_experts"]), dtype=np.int64)
    for path in tqdm(files, desc="reading ranks", unit="file", disable=None):
        with _open(path) as file:
            _check_names(file, path, set(names.values()))
            for row, load in zip(rows, loads, strict=True):
                load += _counts(file, path, row, loads.shape[2])
    if not loads.any():
        raise UserError(f"{source}: no expert received any token; record under load")
    return ExpertStatistics(
        loads=loads,
        layers=tuple(layers),
        first_iteration=chosen.start,
        num_ranks=len(files),
        top_k=meta.get("num_experts_per_token"),
    )


def _rank_files(source: Source) -> list[Path]:
    """The statistics files in order of their ranks, complete from rank 0."""
    found = {}
    for path in source.files("rank*.safetensors"):
        if match := RANK_FILE.fullmatch(path.name):
            found[int(match[1])] = path
    if not found:
        raise UserError(f"{source} holds no rank<R>.safetensors; give the folder of the dump")
    missing = sorted(set(range(max(found) + 1)) - set(found))
    if missing:
        raise UserError(
            f"{source} lacks rank{missing[0]}.safetensors ({len(found)} of {max(found) + 1} ranks "
            f"found); copy the files of all nodes into one folder"
        )
    return [found[rank] for rank in sorted(found)]


def _names(file, path: Path) -> dict[tuple[int, int], str]:
    """The tensors' names by (iteration, layer)."""
    parsed = {name: KEY.fullmatch(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    for name, match in parsed.items():
        if match is None:
            raise UserError(
                f"{path}: tensor {name!r} is not named <iteration>_<layer>; record again"
            )
    return {(int(match[1]), int(match[2])): name for name, match in parsed.items()}


def _open(path: Path, framework: str = "np"):
    try:
        return safe_open(path, framework)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is truncated or not safetensors ({error}); copy it again"
        ) from error


def _complete(path: Path, names: dict[tuple[int, int], str]) -> tuple[range, list[int]]:
    """The iterations and layers of a file, which must have every layer of every iteration."""
    if not names:
        raise UserError(f"{path} holds no tensor; check EXPERT_STATISTIC_ITER_RANGE")
    iterations = sorted({iteration for iteration, _ in names})
    layers = sorted({layer for _, layer in names})
    known = range(iterations[0], iterations[-1] + 1)
    if len(known) != len(iterations):
        gap = min(set(known) - set(iterations))
        raise UserError(f"{path} has no iteration {gap}, yet earlier and later ones; record again")
    for iteration in known:
        for layer in layers:
            if (iteration, layer) not in names:
                raise UserError(
                    f"{path} lacks iteration {iteration} of layer {layer}; record again"
                )
    return known, layers


def _check_names(file, path: Path, expected: set[str]) -> None:
    """Raise `UserError` unless the file has the tensors of the first rank."""
    if odd := set(file.keys()) ^ expected:
        name = min(odd)
        has = "lacks" if name in expected else "has"
        raise UserError(
            f"{path} {has} {name!r} (iteration_layer), unlike rank 0; "
            f"all ranks must record the same iterations and layers"
        )


def _counts(file, path: Path, names: list[str], num_experts: int) -> np.ndarray:
    """[names, experts]: the named tensors, checked together since a recording has many."""
    tensors = [_tensor(file, path, name) for name in names]
    for name, counts in zip(names, tensors, strict=True):
        if counts.shape != (num_experts,):
            raise UserError(
                f"{path}: {name} counts {counts.size} experts, meta_info.json says {num_experts}; "
                f"the files belong to different models"
            )
    return whole_counts(f"{path}: {names[0]} to {names[-1]}", np.stack(tensors))


def _tensor(file, path: Path, name: str) -> np.ndarray:
    try:
        return file.get_tensor(name)
    except TypeError:
        # numpy has no bfloat16; torch, slow to import, has.
        with _open(path, "pt") as torch_file:
            return torch_file.get_tensor(name).double().numpy()


def check_vacant(folder: Path) -> None:
    """Raise `UserError` where a new rank would be added to an older recording."""
    if any(folder.glob("rank*.safetensors")):
        raise UserError(
            f"{folder} already holds statistics, and ranks add up; choose another folder"
        )


def write_statistics(folder: Path, statistics: ExpertStatistics) -> None:
    """Write ``statistics`` as the folder of a single rank, which must hold none."""
    check_vacant(folder)
    tensors = {
        f"{iteration}_{layer}": np.ascontiguousarray(counts)
        for iteration, rows in zip(statistics.iterations, statistics.loads, strict=True)
        for layer, counts in zip(statistics.layers, rows, strict=True)
    }
    meta = {"num_experts": statistics.num_experts, "num_experts_per_token": statistics.top_k}
    write_text(folder / "meta_info.json", json.dumps(meta) + "\n")
    with replacing(folder / "rank0.safetensors") as partial:
        save_file(tensors, partial)


def read_placement(source: Source) -> EnginePlacement:
    """Read a configuration by the engine's rules: full lists, and every expert in each."""
    try:
        config = yaml.load(source.path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{source} is not valid YAML ({error}); generate it again") from error
    assignments = config.get("initial_global_assignments") if isinstance(config, dict) else None
    if not isinstance(assignments, dict) or not assignments:
        raise UserError(f"{source} has no initial_global_assignments; generate it again")
    if not all(isinstance(layer, int) for layer in assignments):
        raise UserError(f"{source}: initial_global_assignments must map layer numbers to lists")
    layers = tuple(sorted(assignments))
    phy2log, num_experts = checked_rows(str(source), layers, [assignments[n] for n in layers])
    if config.get("num_slots") != phy2log.shape[1]:
        raise UserError(
            f"{source}: num_slots is {config.get('num_slots')}, "
            f"the lists have {phy2log.shape[1]} expert ids; generate it again"
        )
    updates = config.get("layer_updates_per_iter", 0)
    return EnginePlacement(phy2log, layers, num_experts, layer_updates_per_iter=updates)


def write_placement(path: Path, placement: EnginePlacement) -> None:
    config = {
        "num_slots": placement.phy2log.shape[1],
        "layer_updates_per_iter": placement.layer_updates_per_iter,
        "initial_global_assignments": {
            layer: row.tolist()
            for layer, row in zip(placement.layers, placement.phy2log, strict=True)
        },
    }
    # default_flow_style=None writes the innermost lists inline and everything around them in lines.
    text = yaml.dump(
        config, Dumper=_Dumper, default_flow_style=None, sort_keys=False, width=1 << 30
    )
    write_text(path, text)

"""What users set: ``key=value``, composed with ``configs/`` and checked before anything is spent.

Covered: keys (with the nearest that exists), types, ranges and choices of every value, the start
program and the trace that they name, and the overrides of a run to resume. Not covered: whether
models answer (`eplb.evolution.models`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from eplb.common import UserError, nearest
from eplb.evaluation.scores import SCORINGS
from eplb.evolution.resolvers import VARIANT, output_dir
from eplb.throughput.dispatch import RULES
from eplb.throughput.profile import read as read_hardware

GROUPS = ("cluster", "database", "evolution", "task", "variant")
PATHS = ("resume", "trace", "hardware", "results_dir", "output_dir")
PATHS += ("evo_config.init_program_path", "evo_config.results_dir")
# Both must stand in a program for ShinkaEvolve to change what is between them.
MARKERS = ("EVOLVE-BLOCK-START", "EVOLVE-BLOCK-END")


def _some(kind: Any) -> Any:
    return Annotated[kind, Field(min_length=1)]


def _hardware(name: str) -> str:
    read_hardware([name])
    return str(Path(name).absolute()) if Path(name).is_file() else name


_Count = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
_Name = _some(str)
_Path = Annotated[_Name, AfterValidator(lambda name: str(Path(name).absolute()))]

# What a value must be, beyond the types that ShinkaEvolve's own configuration has.
KINDS: dict[str, Any] = {
    **dict.fromkeys(("offline", "verbose", "confirm"), bool),
    **dict.fromkeys(("output_dir", "results_dir", "evo_config.results_dir"), _Path),
    **dict.fromkeys(("max_evaluation_jobs", "max_proposal_jobs", "max_db_workers"), _Count),
    "models": _Name | _some(list[_Name]) | None,
    "trace": _Path | None,
    "seed": Annotated[int, Field(strict=True, ge=0, lt=2**31)],
    "locality": Literal["report", "require"],
    "scoring": Literal[tuple(SCORINGS)],
    "dispatch": Literal[RULES],
    "hardware": Annotated[_Name, AfterValidator(_hardware)],
    "evo_config.init_program_path": _Name,
    "evo_config.num_generations": _Count,
    "evo_config.max_api_costs": Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
    "evo_config.llm_dynamic_selection": Literal["ucb", "ucb1", "thompson", "fixed"] | None,
    "evo_config.patch_types": _some(list[Literal["diff", "full", "cross"]]),
    "evo_config.llm_kwargs.max_tokens": _Count,
    "evo_config.llm_kwargs.temperatures": _some(list[float]),
    "evo_config.llm_kwargs.reasoning_efforts": _some(list[_Name]),
    "db_config.num_islands": _Count,
    "db_config.archive_size": _Count,
    "db_config.migration_interval": _Count,
    "db_config.migration_rate": Annotated[float, Field(ge=0, le=1)],
    "db_config.parent_selection_strategy": Literal["weighted", "power_law", "beam_search"],
}
# Text may be a number, and a class of ShinkaEvolve's may be anything.
CHECKS = {"coerce_numbers_to_str": True, "arbitrary_types_allowed": True}


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The checked configuration of the example with ``overrides``; it resolves as it is read.

    `shinka_launch` finds ``configs/`` by the plugin in ``hydra_plugins/``, and so does this: a
    script's own folder is on Python's path. Raises `UserError` in one line for every mistake.
    """
    parsed = [_parse(text) for text in overrides]
    groups = [each for each in parsed if each.key_or_group in GROUPS]
    try:
        with initialize_config_module("shinka.configs", version_base=None):
            config = compose("config", overrides=[VARIANT, *(each.input_line for each in groups)])
        OmegaConf.set_struct(config, False)
        kinds = _kinds(config)
        for override in parsed:
            if override not in groups:
                _set(config, kinds, override)
        if config.trace is not None:
            config.distributed_job_config.extra_cmd_args.trace = config.trace
        OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        told = str(error).rpartition("raised while resolving interpolation: ")[2]
        told = re.split("Config search path|full_key:", told)[0]
        raise UserError(f"{' '.join(overrides)}: {told}") from error
    return config


def _parse(text: str) -> Override:
    key, value = _split(text)
    if key in PATHS and value[:1] not in ("'", '"', "$", ""):
        # Hydra's grammar takes blanks, commas, `#` and `=` for its own.
        text = f"{key}='{value}'" if "'" not in value else f'{key}="{value}"'
    elif key in GROUPS:
        text = f"{key}@_global_={value}"
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(f"{text}: not a value; put it in quotes, {key}='\"…\"'") from error
    if override.is_sweep_override() or override.is_delete():
        raise UserError(f"{text}: one value each, written key=value")
    return override


def _kinds(config: DictConfig) -> dict[str, Any]:
    """What every key may hold: those of the configuration, and of ShinkaEvolve's own classes."""

    def kinds_of(tree: dict[str, Any], above: str) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            yield f"{above}{key}", dict if isinstance(value, dict) else Any
            if isinstance(value, dict):
                yield from kinds_of(value, f"{above}{key}.")

    kinds = dict.fromkeys(GROUPS, Any) | dict(kinds_of(OmegaConf.to_container(config), ""))
    for section in ("evo_config", "db_config", "job_config"):
        theirs = get_type_hints(get_class(config[section]._target_))
        kinds |= {f"{section}.{name}": kind for name, kind in theirs.items()}
    return kinds | KINDS


def _set(config: DictConfig, kinds: dict[str, Any], override: Override) -> None:
    key, text = override.key_or_group, override.input_line
    # ShinkaEvolve hands these on as they are.
    free = key.rpartition(".")[0].endswith(("_kwargs", "_args", "_criteria"))
    if key not in kinds and not free:
        raise UserError(f"{text}: there is no setting {key}{nearest(key, kinds)}; see configs/")
    try:
        value = TypeAdapter(kinds.get(key, Any), config=CHECKS).validate_python(override.value())
    except ValidationError as error:
        wrong = ", or ".join(dict.fromkeys(each["msg"] for each in error.errors()))
        raise UserError(f"{text}: {wrong}") from error
    OmegaConf.update(config, key, value, force_add=True)


def with_saved(overrides: Sequence[str]) -> list[str]:
    """Put the overrides of the run to resume, if any, before the given ones."""
    given = dict(_split(override) for override in overrides)
    if given.get("resume", "null") == "null":
        return list(overrides)
    folder = Path(output_dir(given["resume"].strip("'\""), ""))
    saved_file = folder / ".hydra" / "overrides.yaml"
    saved = yaml.safe_load(saved_file.read_text("utf-8")) if saved_file.is_file() else []
    kept = dict(_split(override) for override in saved)
    for where in ("output_dir", "results_dir", "evo_config.results_dir"):
        kept.pop(where, None)  # here, even where it was begun in another folder
    merged = kept | given | {"resume": str(folder)}
    return [f"{key}={value}" for key, value in merged.items() if key != "variant"]


def _split(override: str) -> tuple[str, str]:
    key, equals, value = override.partition("=")
    if not equals:
        raise UserError(f"{override}: overrides are written key=value, e.g. offline=true")
    return key.lstrip("+").removesuffix("@_global_"), value


def check_start_program(path: Path) -> None:
    """Raise `UserError` unless ``path`` is a program that ShinkaEvolve can change."""
    try:
        code = path.read_text(encoding="utf-8-sig")
        ast.parse(code)
    except OSError as error:
        wrong = f"{error.strerror}; name a program such as initial.py"
    except (SyntaxError, ValueError) as error:
        wrong = f"not Python ({error}); put that right first"
    else:
        places = [code.find(marker) for marker in MARKERS]
        if places == sorted(places) and -1 not in places:
            return
        lines = " and ".join(f"# {marker}" for marker in MARKERS)
        wrong = f"no EVOLVE block; put what may change between {lines}, as initial.py does"
    raise UserError(f"evo_config.init_program_path={path}: {wrong}")

"""What users set: ``key=value``, composed with ``configs/`` and checked before anything is spent.

Covered: keys (with the nearest that exists), types, ranges and choices of every value, the start
program and the trace that they name, and the overrides of a run to resume. Not covered: whether
models answer (`eplb.evolution.models`).
"""

from __future__ import annotations

import ast
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
from pydantic import Field, TypeAdapter, ValidationError

from eplb.common import UserError, nearest
from eplb.evaluation.scores import SCORINGS
from eplb.evolution.resolvers import output_dir
from eplb.throughput.dispatch import RULES
from eplb.throughput.profile import read as read_hardware

VARIANT = "variant@_global_=eplb_example"
GROUPS = ("cluster", "database", "evolution", "task", "variant")
PATHS = ("resume", "trace", "hardware", "results_dir", "output_dir", "evo_config.init_program_path")
# Both must stand in a program for ShinkaEvolve to change what is between them.
MARKERS = ("EVOLVE-BLOCK-START", "EVOLVE-BLOCK-END")

_Count = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
_Name = Annotated[str, Field(min_length=1)]


def _some(kind: Any) -> Any:
    return Annotated[list[kind], Field(min_length=1)]


# What a value must be, beyond the types that ShinkaEvolve's own configuration has.
KINDS: dict[str, Any] = {
    **dict.fromkeys(("offline", "verbose", "confirm"), bool),
    **dict.fromkeys(("output_dir", "results_dir", "evo_config.init_program_path"), _Name),
    **dict.fromkeys(("max_evaluation_jobs", "max_proposal_jobs", "max_db_workers"), _Count),
    "models": _Name | _some(_Name) | None,
    "trace": _Name | None,
    "seed": Annotated[int, Field(strict=True, ge=0, lt=2**31)],
    "locality": Literal["report", "require"],
    "scoring": Literal[tuple(SCORINGS)],
    "dispatch": Literal[RULES],
    "hardware": _Name,
    "evo_config.num_generations": _Count,
    "evo_config.max_api_costs": Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
    "evo_config.llm_dynamic_selection": Literal["ucb", "ucb1", "thompson", "fixed"] | None,
    "evo_config.patch_types": _some(Literal["diff", "full", "cross"]),
    "evo_config.llm_kwargs.max_tokens": _Count,
    "evo_config.llm_kwargs.temperatures": _some(float),
    "evo_config.llm_kwargs.reasoning_efforts": _some(_Name),
    "db_config.num_islands": _Count,
    "db_config.archive_size": _Count,
    "db_config.migration_interval": _Count,
    "db_config.migration_rate": Annotated[float, Field(ge=0, le=1)],
    "db_config.parent_selection_strategy": Literal["weighted", "power_law", "beam_search"],
}
# Pydantic's words, and what they say to people who write overrides.
WORDS = {
    "a valid boolean, unable to interpret input": "true or false",
    "Input should be": "it must be",
    "List should have at least 1 item after validation, not 0": "a list of at least one",
    "String should have at least 1 character": "it must not be empty",
    "a valid string": "text (a number is text in two kinds of quotes: '\"30\"')",
    "valid integer": "whole number",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The checked and resolved configuration of the example with ``overrides``.

    `shinka_launch` finds ``configs/`` by the plugin in ``hydra_plugins/``, and so does this: a
    script's own folder is on Python's path. Raises `UserError` in one line for every mistake.
    """
    parsed = [_parse(override) for override in overrides]
    groups = [text for text, override in parsed if override.key_or_group in GROUPS]
    try:
        with initialize_config_module("shinka.configs", version_base=None):
            config = compose("config", overrides=[VARIANT, *groups])
        OmegaConf.set_struct(config, False)
        kinds = _kinds(config)
        for text, override in parsed:
            if override.key_or_group not in GROUPS:
                _set(config, kinds, text, override)
        if config.trace is not None:
            trace = str(Path(config.trace).absolute())
            config.distributed_job_config.extra_cmd_args.trace = trace
        read_hardware([config.hardware])
        if Path(config.hardware).is_file():
            config.hardware = str(Path(config.hardware).absolute())
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_reason(error, overrides)) from error
    return config


def _parse(text: str) -> tuple[str, Override]:
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
    return text, override


def _kinds(config: DictConfig) -> dict[str, Any]:
    """What every key may hold: those of the configuration, and of ShinkaEvolve's own classes."""

    def keys(tree: dict[str, Any], above: str) -> Iterator[str]:
        for key, value in tree.items():
            yield f"{above}{key}"
            if isinstance(value, dict):
                yield from keys(value, f"{above}{key}.")

    kinds = dict.fromkeys((*keys(OmegaConf.to_container(config), ""), *GROUPS), Any)
    for section in ("evo_config", "db_config", "job_config"):
        theirs = get_type_hints(get_class(config[section]._target_))
        kinds |= {f"{section}.{name}": kind for name, kind in theirs.items()}
    return kinds | KINDS


def _set(config: DictConfig, kinds: dict[str, Any], text: str, override: Override) -> None:
    key = override.key_or_group
    # ShinkaEvolve hands these on as they are.
    free = key.rpartition(".")[0].endswith(("_kwargs", "_args", "_criteria"))
    if key not in kinds and not free:
        raise UserError(f"{text}: there is no setting {key}{nearest(key, kinds)}; see configs/")
    checked = TypeAdapter(kinds.get(key, Any), config={"arbitrary_types_allowed": True})
    try:
        OmegaConf.update(config, key, checked.validate_python(override.value()), force_add=True)
    except ValidationError as error:
        wrong = ", or ".join(dict.fromkeys(each["msg"] for each in error.errors()))
        for theirs, ours in WORDS.items():
            wrong = wrong.replace(theirs, ours)
        raise UserError(f"{text}: {wrong}") from error


def _reason(error: Exception, overrides: Sequence[str]) -> str:
    """Our own words, where one of our resolvers raised them, else Hydra's."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    told = str(error).rpartition("raised while resolving interpolation: ")[2]
    theirs = f"{' '.join(overrides)}: {told.partition('Config search path')[0]}"
    return theirs if cause is None else str(cause)


def with_saved(overrides: Sequence[str]) -> list[str]:
    """Put the overrides of the run to resume, if any, before the given ones."""
    given = dict(_split(override) for override in overrides)
    if given.get("resume", "null") == "null":
        return list(overrides)
    folder = Path(output_dir(given["resume"].strip("'\""), ""))
    saved_file = folder / ".hydra" / "overrides.yaml"
    saved = yaml.safe_load(saved_file.read_text("utf-8")) if saved_file.is_file() else []
    merged = dict(_split(override) for override in saved) | given | {"resume": str(folder)}
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
        places = [code.find(marker) for marker in MARKERS]
        if places == sorted(places) and -1 not in places:
            return
        wrong = (
            f"no EVOLVE block; put what may change between the lines "
            f"# {MARKERS[0]} and # {MARKERS[1]}, as initial.py does"
        )
    except OSError as error:
        wrong = f"{error.strerror}; name a program such as initial.py"
    except (SyntaxError, ValueError) as error:
        wrong = f"not Python ({error}); put that right first"
    raise UserError(f"evo_config.init_program_path={path}: {wrong}")

"""What is known of a deployment besides its shape: a profile, from YAML and the command line.

Covered: presets (`configs/hardware/`), files of a user, and fields that are set on the command
line. Not covered: what follows from a profile (`eplb.throughput.worth`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from eplb.common import UserError, nearest, project_file
from eplb.throughput.dispatch import RULES
from eplb.throughput.kernels import kernel

PHASES = ("prefill", "decode")
DEFAULT = "h200"
_PRESETS = "configs/hardware"

Rebalancing = Enum("Rebalancing", ["blocking", "asynchronous"])


@dataclass(frozen=True)
class Profile:
    """A deployment in one phase of serving.

    kernel: measured kernel that gives the time of a MoE layer
    tokens_per_gpu: tokens of one step on each GPU, before they are sent to experts
    steps_per_window: steps from one rebalancing to the next
    top_k: experts per token
    bytes_per_expert: weights of one expert of one layer
    link_within_node, link_between_nodes: GB/s at which a GPU fetches weights
    rebalancing: blocking (serving stands still for planning and moving) or asynchronous (it goes
        on under the old placement for so long)
    fixed_stall: seconds that a rearrangement takes besides
    """

    kernel: str
    tokens_per_gpu: int
    steps_per_window: int
    top_k: int
    bytes_per_expert: float
    link_within_node: float
    link_between_nodes: float
    rebalancing: Rebalancing
    fixed_stall: float

    def check(self) -> None:
        """Raise `UserError` for the first field that makes no sense."""
        kernel(self.kernel)
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "fixed_stall" else 1e-9
            if isinstance(value, int | float) and not least <= value < float("inf"):
                raise UserError(f"{field.name} is {value}; it must be positive")


@dataclass(frozen=True)
class Serving:
    """How placements are served: profiles by phase, and a rule of `eplb.throughput.dispatch`."""

    profiles: dict[str, Profile]
    dispatch: str = "even"

    @classmethod
    def of(cls, hardware: Iterable[str], dispatch: str, top_k: int | None = None) -> Serving:
        """Of what ``--hardware`` and ``--dispatch`` say, and the recording's top_k."""
        return cls(read(hardware, top_k), dispatch)


@cache
def default_serving() -> Serving:
    return Serving.of([DEFAULT], "even")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--dispatch`` and ``--hardware``, which `Serving.of` takes."""
    parser.add_argument(
        "--dispatch",
        choices=RULES,
        default="even",
        help="how the engine splits an expert's tokens among its replicas (default: even)",
    )
    parser.add_argument(
        "--hardware",
        nargs="+",
        default=[DEFAULT],
        metavar=("NAME|FILE", "FIELD=VALUE"),
        help=f"what tokens per second are told for: {', '.join(presets())} or a file like those in "
        f"{_PRESETS}; then fields to change, as decode.tokens_per_gpu=64 (default: {DEFAULT})",
    )


def presets() -> list[str]:
    return sorted(path.stem for path in project_file(_PRESETS).glob("*.yaml"))


def read(hardware: Iterable[str], top_k: int | None = None) -> dict[str, Profile]:
    """The profile of each phase, from a preset's or file's name and ``field=value`` after it.

    top_k: of the recording, if it tells; it goes before the file's
    """
    name, *changes = hardware
    path = project_file(f"{_PRESETS}/{name}.yaml") if name in presets() else Path(name)
    if not path.is_file():
        raise UserError(
            f"--hardware {name} is neither a file nor one of {', '.join(presets())}; "
            f"copy one of {_PRESETS} to start from"
        )
    recorded = {} if top_k is None else {"top_k": top_k}
    try:
        layers = [OmegaConf.load(path), OmegaConf.create(recorded), OmegaConf.from_dotlist(changes)]
        return {phase: _profile(phase, layers) for phase in PHASES}
    except (UserError, OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        # OmegaConf goes on about its types after the first line.
        reason = str(error).splitlines()[0]
        raise UserError(f"--hardware {' '.join(hardware)}: {reason}") from error


def _profile(phase: str, layers: list) -> Profile:
    """Later layers go before earlier ones, and in each the fields of the phase before the rest."""
    merged = OmegaConf.structured(Profile)
    known = [*merged, *PHASES]
    told = ", ".join(merged)
    for layer in layers:
        if not OmegaConf.is_dict(layer):
            raise UserError(f"it holds no fields; copy one of {_PRESETS} to start from")
        phased = layer.get(phase) or {}
        general = {name: value for name, value in layer.items() if name not in PHASES}
        for name in (*general, *(phased if OmegaConf.is_dict(phased) else ())):
            if name not in known:
                raise UserError(f"there is no {name}{nearest(name, known)}; it has {told}")
        merged = OmegaConf.merge(merged, general, phased)
    profile = OmegaConf.to_object(merged)
    profile.check()
    return profile

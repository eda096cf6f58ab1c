"""The commands as their scripts call them, in this process."""

from __future__ import annotations

from argparse import Namespace
from types import ModuleType

import generate_eplb_config
import plan_deployment
import report_load_statistics
from eplb.planning.advice_report import make
from eplb.planning.generate import generate
from eplb.planning.report import report


def parsed(script: ModuleType, given: dict) -> Namespace:
    """What ``script`` makes of the options ``given``; None leaves one out."""
    words = []
    for name, value in given.items():
        if value is not None:
            values = [] if value is True else value if isinstance(value, list) else [value]
            words += [f"--{name}", *map(str, values)]
    return script.parser().parse_args(words)


def generated(**options) -> tuple[str, list[str]]:
    return generate(parsed(generate_eplb_config, options))


def reported(**options) -> tuple[str, list[str]]:
    return report(parsed(report_load_statistics, options))


def advised(progress=lambda share: None, **options) -> tuple[str, list[str]]:
    return make(parsed(plan_deployment, options), progress)

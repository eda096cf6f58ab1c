"""The commands as their scripts call them, in this process."""

from __future__ import annotations

from argparse import Namespace
from types import ModuleType

import numpy as np

import generate_eplb_config
import plan_deployment
import report_load_statistics
from eplb.engines.choice import place_greedily
from eplb.planning.advice_report import make
from eplb.planning.generate import generate
from eplb.planning.report import report
from eplb.sandbox.runner import Answer, Run


class GreedySandbox:
    """The engines' rule in place of any program: a sandbox for every test would take minutes."""

    def __init__(self, timeout, hidden): ...

    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    def run(self, program, windows, deployment, *_) -> Run:
        """A millisecond a call."""
        plans = [place_greedily(window, deployment) for window in windows]
        answers = [Answer(plan.phy2log, plan.log2phy, plan.logcnt) for plan in plans]
        return Run(answers, np.full(len(windows), 1e-3))


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

"""Lets `shinka_launch` find this project's configuration, from any folder.

Hydra imports every module of the namespace package ``hydra_plugins`` (which therefore has no
``__init__.py``) in every Hydra application of the environment: only ShinkaEvolve's is touched.

`shinka_launch variant=eplb_example` goes on as `run_evo.py`: once Hydra composes a configuration
itself, a mistake ends in its traceback, and ShinkaEvolve prints some 400 lines. Hydra's own
options (``--cfg job``, ``--help``) stay Hydra's.
"""

from __future__ import annotations

import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from eplb.common import exit_on_user_error, project_file
from eplb.evolution.resolvers import VARIANT, register_resolvers

# Hydra writes the first where a script names the folder, the second where a module is named.
SHINKA_CONFIGS = ("pkg://shinka/configs", "pkg://shinka.configs")


class EplbSearchPathPlugin(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if any(entry.path in SHINKA_CONFIGS for entry in search_path.get_path()):
            search_path.append("eplb", f"file://{project_file('configs')}")
            register_resolvers()
            _run_the_variant()


def _run_the_variant() -> None:
    arguments = sys.argv[1:]
    if VARIANT not in arguments or any(word.startswith("-") for word in arguments):
        return
    arguments.remove(VARIANT)
    sys.argv[1:] = arguments  # composing comes through here again
    from eplb.evolution.run import run

    exit_on_user_error(lambda: run(arguments))

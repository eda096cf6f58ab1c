"""Lets `shinka_launch` find this project's configuration, from any folder.

Hydra imports every module of the namespace package ``hydra_plugins`` (which therefore has no
``__init__.py``) in every Hydra application of the environment: only ShinkaEvolve's is touched.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from eplb.common import project_file
from eplb.evolution.resolvers import register_resolvers

# Hydra writes the first where a script names the folder, the second where a module is named.
SHINKA_CONFIGS = ("pkg://shinka/configs", "pkg://shinka.configs")


class EplbSearchPathPlugin(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if any(entry.path in SHINKA_CONFIGS for entry in search_path.get_path()):
            search_path.append("eplb", f"file://{project_file('configs')}")
            register_resolvers()

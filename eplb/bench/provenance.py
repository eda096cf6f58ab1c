"""What a table of measurements says of where it comes from: the commit and the machine.

Not covered: what else the machine did meanwhile.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from eplb.common import project_file


def commit() -> str:
    """The commit of the source tree, with a + where files differ from it."""
    folder = project_file("initial.py").parent
    try:
        git = ["git", "-C", str(folder)]
        name = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        )
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    return name.stdout.strip() + "+" * bool(changes.stdout.strip()) or "unknown"


def machine() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} processors"
    except OSError:
        pass
    return platform.processor() or platform.machine()

"""Every test's surroundings."""

from __future__ import annotations

import os

from hypothesis import settings

# On a test server the same examples every time: a failure there is the change's, not the draw's.
settings.register_profile("server", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("server")

"""A synthetic served Mixture-of-Experts model, the source of the embedded ``expert-load.json``.

`model` has the parameters and presets, `traffic` makes a trace of them;
``python -m eplb.workload_model`` writes one.
"""

from __future__ import annotations

from eplb.workload_model.model import PRESETS, WorkloadModel
from eplb.workload_model.traffic import generate

__all__ = ["PRESETS", "WorkloadModel", "generate"]

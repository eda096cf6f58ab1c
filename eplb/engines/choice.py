"""Which of several placements to keep: the one that balances given loads best.

A program may plan worse than the greedy rule of the engines, so that rule's plan stands beside it
wherever a program's is deployed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eplb import reference
from eplb.engines.load_table import LoadTable, tabulate
from eplb.placement import Deployment, ExpertPlacement

GREEDY = "greedy"


@dataclass(frozen=True)
class Choice:
    """Placements measured on the same loads. ``kept`` names the best, of equals the first.

    best: the one that is kept, as it was measured
    """

    kept: str
    tables: dict[str, LoadTable]
    best: ExpertPlacement

    def __str__(self) -> str:
        ranked = sorted(self.tables.items(), key=lambda item: -item[1].balancedness)
        (best, *others), gain = [name for name, _ in ranked], ""
        if others:
            by = ranked[0][1].balancedness - ranked[1][1].balancedness
            gain = f", {by:.4f} of balancedness above {others[0]}"
        return f"kept {best}{gain}"


def choose(
    plans: dict[str, ExpertPlacement],
    loads: np.ndarray,
    num_gpus: int,
    layers: tuple[int, ...] | None = None,
) -> Choice:
    """Measure every plan on ``loads`` [iterations, layers, experts] and keep the best.

    layers: the layers' numbers, for the tables
    """
    numbers = tuple(range(loads.shape[1])) if layers is None else layers
    tables = {name: tabulate(numbers, loads, plan, num_gpus) for name, plan in plans.items()}
    kept = max(tables, key=lambda name: tables[name].balancedness)
    return Choice(kept, tables, plans[kept])


def place_greedily(load: np.ndarray, deployment: Deployment) -> ExpertPlacement:
    """The engines' rule on ``load`` [layers, experts]: `eplb.reference.place` as a placement."""
    slots = reference.place(load, deployment.num_replicas, deployment.num_gpus)
    return ExpertPlacement.from_phy2log(slots, load.shape[1])

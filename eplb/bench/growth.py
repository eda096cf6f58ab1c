"""How a balancer's time grows with layers, experts and GPUs: `python -m eplb.bench.growth`.

Covered: the time of one call over the number of slots in all layers, and the exponent of a power
law fitted to it, from 8 layers x 64 experts x 64 GPUs to 128 x 1024 x 1024. Not covered: memory,
and how good the placements are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from eplb.bench import command, plots
from eplb.common import DONE, UserError, exit_on_user_error
from eplb.evaluation.measure import run_program
from eplb.evaluation.scores import call_ms
from eplb.placement import Deployment, fewest_slots
from eplb.sandbox.runner import Refused, Sandbox

WINDOWS = 4
# One more slot for every eight experts, as in DeepSeek's EP32, rounded up to whole GPUs.
SPARE_SHARE = 8


@dataclass(frozen=True)
class Size:
    """One problem: ``layers`` x ``experts`` on ``gpus`` GPUs."""

    layers: int
    experts: int
    gpus: int

    def __str__(self) -> str:
        return f"{self.layers} x {self.experts} x {self.gpus}"

    @property
    def deployment(self) -> Deployment:
        wanted = self.experts + self.experts // SPARE_SHARE
        nodes = max(1, self.gpus // 8)
        return Deployment(fewest_slots(wanted, self.gpus), nodes, nodes, self.gpus)

    @property
    def slots(self) -> int:
        """Slots in all layers."""
        return self.layers * self.deployment.num_replicas

    def workload(self) -> np.ndarray:
        """[WINDOWS, layers, experts] int64: log-normal loads that drift a little."""
        rng = np.random.default_rng(0)
        popularity = rng.normal(scale=0.7, size=(self.layers, self.experts))
        noise = rng.normal(scale=0.2, size=(WINDOWS, *popularity.shape))
        return np.rint(1000 * np.exp(popularity + noise)).astype(np.int64)


SIZES = [Size(n, 8 * n, 8 * n) for n in (8, 16, 32, 64, 128)]


def ms_of_call(sandbox: Sandbox, program: Path, size: Size, repeats: int) -> float:
    """Not a number where the program is refused for want of time or memory at that size."""
    try:
        run = run_program(sandbox, program, size.workload(), size.deployment, repeats=repeats)
    except Refused as error:
        if size == SIZES[0]:
            raise UserError(f"{program} is refused at {size}: {error}") from error
        return math.nan
    return call_ms(run.seconds)


def exponent(slots: list[int], ms: list[float]) -> float:
    """The power of the slots that the time grows with: a least-squares line through the logs."""
    known = ~np.isnan(ms)
    return float(np.polyfit(np.log(slots)[known], np.log(ms)[known], 1)[0])


def draw(measured: dict[str, list[float]], path: Path) -> None:
    """Time over slots, with n log n to compare."""
    slots = [size.slots for size in SIZES]
    shape = slots * np.log(slots)
    guide = (slots, min(ms[0] for ms in measured.values()) * shape / shape[0])
    lines = {f"{name}: n^{exponent(slots, ms):.2f}": (slots, ms) for name, ms in measured.items()}
    panels = [plots.Panel(f"from {SIZES[0]} to {SIZES[-1]}", lines, guide)]
    title = "How the time of one call grows with layers x experts x GPUs"
    axes = ("n, slots in all layers", "ms per call")
    plots.draw(path, title, panels, axes, "n log n", yscale="log")


def main(arguments: list[str] | None = None) -> int:
    args = command.parser("python -m eplb.bench.growth", __doc__).parse_args(arguments)
    command.check_names("--programs", (path.stem for path in args.programs))
    lines, measured = [["program", *map(str, SIZES), "exponent"]], {}
    with Sandbox(timeout=600) as sandbox:
        for program in args.programs:
            sizes = tqdm(SIZES, program.name, leave=False, disable=None)
            times = [ms_of_call(sandbox, program, size, args.repeats) for size in sizes]
            measured[program.stem] = times
            power = exponent([size.slots for size in SIZES], times)
            cells = ("refused" if math.isnan(ms) else f"{ms:.3g}" for ms in times)
            lines.append([program.name, *cells, f"{power:.2f}"])
    print(command.markdown(lines, "Milliseconds per call, layers x experts x GPUs"))
    print(f"{command.measured()}.")
    if args.plot:
        draw(measured, args.plot)
    return DONE


if __name__ == "__main__":
    exit_on_user_error(main)

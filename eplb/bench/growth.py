"""How a balancer's time grows with layers, experts and GPUs: `python -m eplb.bench.growth`.

Covered: the time of one call over the number of slots in all layers, and the exponent of a power
law fitted to it, from 8 layers x 64 experts x 64 GPUs to 128 x 1024 x 1024. Not covered: memory,
and how good the placements are.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from eplb.bench.leaderboard import shipped_programs
from eplb.bench.provenance import commit, machine
from eplb.common import DONE, ArgumentParser, UserError, exit_on_user_error, positive_int, replacing
from eplb.evaluation.measure import run_program
from eplb.evaluation.scores import call_ms
from eplb.placement import Deployment
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

    @property
    def deployment(self) -> Deployment:
        wanted = self.experts + self.experts // SPARE_SHARE
        nodes = max(1, self.gpus // 8)
        return Deployment(-(-wanted // self.gpus) * self.gpus, nodes, nodes, self.gpus)

    @property
    def slots(self) -> int:
        """Slots in all layers."""
        return self.layers * self.deployment.num_replicas


# Each series grows one number, the last all of them.
SERIES = {
    "layers": [Size(layers, 256, 32) for layers in (8, 16, 32, 64, 128)],
    "experts": [Size(58, experts, 32) for experts in (64, 128, 256, 512, 1024)],
    "GPUs": [Size(58, 1024, gpus) for gpus in (8, 32, 128, 512, 1024)],
    "all": [
        Size(8, 64, 64),
        Size(16, 128, 128),
        Size(32, 256, 256),
        Size(64, 512, 512),
        Size(128, 1024, 1024),
    ],
}


def workload(size: Size) -> np.ndarray:
    """[WINDOWS, layers, experts] int64: log-normal loads that drift a little."""
    rng = np.random.default_rng(0)
    popularity = rng.normal(scale=0.7, size=(size.layers, size.experts))
    noise = rng.normal(scale=0.2, size=(WINDOWS, *popularity.shape))
    return np.rint(1000 * np.exp(popularity + noise)).astype(np.int64)


def seconds_of_call(sandbox: Sandbox, program: Path, size: Size, repeats: int) -> float:
    try:
        run = run_program(sandbox, program, workload(size), size.deployment, repeats=repeats)
    except Refused as error:
        shape = f"{size.layers} x {size.experts} on {size.gpus} GPUs"
        raise UserError(f"{program} is refused at {shape}: {error}") from error
    return 1e-3 * call_ms(run.seconds)


def exponent(slots: list[int], seconds: list[float]) -> float:
    """The power of the slots that the time grows with: a least-squares line through the logs."""
    return float(np.polyfit(np.log(slots), np.log(seconds), 1)[0])


def slots_that_grow(name: str) -> list[int]:
    """What a series' time is fitted over. More GPUs on the same experts bring few more slots."""
    return [size.gpus if name == "GPUs" else size.slots for size in SERIES[name]]


def draw(measured: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Time over slots for the series that grows everything, with n log n to compare."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axis = figure.subplots()
    slots = np.array(slots_that_grow("all"), dtype=float)
    for program, series in measured.items():
        fitted = exponent(list(slots), series["all"])
        axis.loglog(slots, 1e3 * np.array(series["all"]), "o-", label=f"{program}: n^{fitted:.2f}")
    shape = slots * np.log(slots)
    first = min(series["all"][0] for series in measured.values())
    axis.loglog(slots, 1e3 * first * shape / shape[0], ":", color="#777777", label="n log n")
    axis.set_xlabel("slots in all layers, from 8 x 128 on 64 GPUs to 128 x 2048 on 1024")
    axis.set_ylabel("ms per call")
    axis.legend()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(
        prog="python -m eplb.bench.growth", description="Time programs on growing problems."
    )
    parser.add_argument(
        "--programs", type=Path, nargs="+", metavar="FILE", help="default: all in programs/"
    )
    parser.add_argument(
        "--repeats", type=positive_int, default=3, help="runs of a program; default: 3"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it, e.g. growth.png")
    args = parser.parse_args(arguments)
    programs = args.programs or shipped_programs()
    measured: dict[str, dict[str, list[float]]] = {program.name: {} for program in programs}
    print(f"Commit {commit()}; {machine()}; one thread; milliseconds per call.\n")
    total = len(programs) * sum(map(len, SERIES.values()))
    hidden = not sys.stderr.isatty()
    with Sandbox(timeout=600) as sandbox, tqdm(total=total, disable=hidden) as bar:
        for name, sizes in SERIES.items():
            tqdm.write(heading(name, sizes))
            for program in programs:
                seconds = []
                for size in sizes:
                    seconds.append(seconds_of_call(sandbox, program, size, args.repeats))
                    bar.update()
                measured[program.name][name] = seconds
                tqdm.write(line(program.name, name, seconds))
            tqdm.write("")
    if args.plot:
        draw(measured, args.plot)
    return DONE


def heading(name: str, sizes: list[Size]) -> str:
    cells = " | ".join(f"{size.layers} x {size.experts} x {size.gpus}" for size in sizes)
    return f"| {name} grow | {cells} | exponent |\n|---|{'---|' * len(sizes)}---|"


def line(program: str, name: str, seconds: list[float]) -> str:
    cells = " | ".join(f"{1e3 * value:.3g}" for value in seconds)
    return f"| {program} | {cells} | {exponent(slots_that_grow(name), seconds):.2f} |"


if __name__ == "__main__":
    exit_on_user_error(main)

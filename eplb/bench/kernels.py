"""How long measured MoE kernels take, and how well the step-time model knows: fit and check it.

python -m eplb.bench.kernels --output eplb/throughput/kernels.json

The tables are those of the wheel of aiconfigurator-core, which is read and thrown away; what stays
are constants. Without ``--output`` the constants in use are checked. Needs the extra ``fit``.

Covered: kernels of SGLang (DeepEP, 7168 x 2048, fp8) under uniform loads, apart for prefill and
decode, and of TensorRT-LLM (three shapes) under loads whose hottest rank is known. Not covered:
SGLang's rows under skewed loads, which do not tell the hottest rank, and dispatch and combine.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from eplb.bench.published.releases import Release, download
from eplb.common import (
    DONE,
    ArgumentParser,
    UserError,
    exit_on_user_error,
    output_argument,
    write_text,
)
from eplb.throughput.kernels import Kernel, Regime, kernels

WHEEL = Release(
    filename="aiconfigurator_core-0.12.0-cp311-abi3-manylinux_2_28_x86_64.whl",
    sha256="aadc4aad0a00bf8a61c477c62bef43de479849c3aa0b1c3078068e08309eccc4",
    licence="Apache-2.0",
)
GPUS = {"h100": "h100_sxm", "h200": "h200_sxm", "b200": "b200_sxm", "gb200": "gb200"}
SHAPES = ((7168, 2048), (6144, 2048), (3072, 1536))
BYTES = {"fp8_block": 1.0, "nvfp4": 0.5625}  # a weight, with its share of the scales
# SGLang's prefill kernels behave differently from 4,096 tokens on.
CHANGE = 4096
# Of the hottest rank, as `Kernel.ms` takes them; of the step over all ranks; and measured.
COLUMNS = ("slots", "active", "rows", "tokens", "ms")


@dataclass(frozen=True)
class Table:
    """What was measured of one kernel.

    data: `COLUMNS`, a row a measurement
    """

    name: str
    source: str
    dtype: str
    bytes_per_expert: float
    data: pd.DataFrame

    def errors(self, kernel: Kernel) -> np.ndarray:
        """[rows] the model's time over the measured one, minus one."""
        rows = self.data.to_numpy()
        return np.array([kernel.ms(*row[:-1]) for row in rows]) / rows[:, -1] - 1


def tables(wheel: zipfile.ZipFile) -> Iterator[Table]:
    """Every table that a kernel is fitted to."""
    for gpu, folder in GPUS.items():
        for phase, part in (("prefill", "context"), ("decode", "generation")):
            source = f"{folder}/moe/sglang/0.5.10/wideep_{part}_moe_perf"
            data = _read(wheel, source)
            yield _table(f"{gpu}-{phase}", source, data[data["distribution"] == "uniform"])
        source = f"{folder}/moe/trtllm/1.3.0rc10/wideep_moe_perf"
        data = _read(wheel, source)
        for hidden, intermediate in SHAPES:
            shape = (data["hidden_size"] == hidden) & (data["inter_size"] == intermediate)
            yield _table(f"{gpu}-trtllm-{hidden}x{intermediate}", source, data[shape])


def _read(wheel: zipfile.ZipFile, source: str) -> pd.DataFrame:
    """A table's rows that have a time."""
    member = wheel.read(f"aiconfigurator_core/systems/data/{source}.parquet")
    try:
        data = pd.read_parquet(io.BytesIO(member))
    except ImportError as error:
        raise UserError("reading the tables needs pyarrow: pip install -e '.[fit]'") from error
    return data[np.isfinite(data["latency"].astype(float))]


def _table(name: str, source: str, data: pd.DataFrame) -> Table:
    ranks, tokens = data["moe_ep_size"], data["num_tokens"].astype(float)
    rows = tokens * data["topk"] / ranks
    slots = data.get("num_slots", data["num_experts"]) / ranks
    active = np.minimum(slots, rows)
    if "rank0_num_tokens" in data:
        # Tokens that reach the hottest rank. With EPLB each is there for about one expert; without
        # it the hottest experts lie together, and few tokens touch all of them.
        hottest = data["rank0_num_tokens"].astype(float)
        rows = np.maximum(rows, hottest)
        balanced = data["distribution"].str.endswith("_eplb")
        active = np.minimum(slots, rows.where(balanced, data["topk"] * hottest))
    columns = (slots, active, rows, tokens, data["latency"].astype(float))
    measured = pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
    kind = data.iloc[0]
    size = 3.0 * float(kind["hidden_size"]) * float(kind["inter_size"]) * BYTES[kind["moe_dtype"]]
    return Table(name, source, kind["moe_dtype"], size, measured)


def fit(table: Table) -> Kernel:
    """The kernel whose model is nearest to ``table``, in the logarithm of the time."""
    late = table.name.endswith("prefill") & (table.data["tokens"] > CHANGE)
    parts = (replace(table, data=data) for _, data in table.data.groupby(late))
    known = (table.source, table.dtype, table.bytes_per_expert, len(table.data))
    kernel = Kernel(table.name, *known, 0.0, 0.0, tuple(map(_fit_regime, parts)))
    errors = np.abs(table.errors(kernel))
    median, worst = round(float(np.median(errors)), 4), round(float(errors.max()), 4)
    return replace(kernel, median_error=median, worst_error=worst)


def _fit_regime(table: Table) -> Regime:
    slots = np.unique(table.data["slots"])
    prefill, known_hottest = table.name.endswith("prefill"), "trtllm" in table.name
    # active, base, row, token, power. In prefill all slots are active: their floor says it all.
    start = np.array([5e-3, 3e-2, 8e-5, 1e-6, 3.0])
    least = np.array([1e-7, 1e-7, 1e-8, 1e-12, 1.0])
    most = np.array([1e-6 if prefill else 1.0, 2.0, 1e-2, 1e-11 if known_hottest else 1e-3, 30.0])
    start = np.clip(start, 1.01 * least, most / 1.01)
    # Behind them a floor for each number of slots.
    starts, lows, highs = (
        np.log(np.append(known, np.full(len(slots), floor)))
        for known, floor in ((start, 0.05), (least, 1e-6), (most, 2.0))
    )
    *hottest, tokens, ms = table.data.to_numpy().T
    steps = (int(tokens.min()), int(tokens.max()), tuple(map(int, slots)))

    def regime(values: np.ndarray) -> Regime:
        return Regime(*steps, tuple(values[5:]), *values[:5])

    def residual(logs: np.ndarray) -> np.ndarray:
        return np.log(regime(np.exp(logs)).ms(*hottest, tokens, 1.0) / ms)

    # Rows of a table whose hottest rank is uneven within are outliers, and many.
    loss = "soft_l1" if known_hottest else "linear"
    solved = least_squares(residual, starts, bounds=(lows, highs), loss=loss, f_scale=0.1)
    fitted = regime(np.array([float(f"{value:.4g}") for value in np.exp(solved.x)]).tolist())
    without = {"active_ms": prefill, "token_ms": known_hottest}
    return replace(fitted, **{name: 0.0 for name, left_out in without.items() if left_out})


def report(measured: list[Table], known: dict[str, Kernel]) -> str:
    """How far each kernel's model is from each row of its table."""
    lines = [f"{'kernel':<26}{'rows':>6}{'median':>9}{'90 %':>9}{'worst':>9}"]
    for table in measured:
        errors = np.abs(table.errors(known[table.name]))
        median, ninety, worst = np.median(errors), np.percentile(errors, 90), errors.max()
        lines.append(f"{table.name:<26}{len(errors):>6}{median:>9.1%}{ninety:>9.1%}{worst:>9.1%}")
    return "\n".join(lines)


def as_json(fitted: dict[str, Kernel]) -> str:
    """The file of constants: one kernel or regime a line where it fits."""
    wheel = f"{WHEEL.filename} ({WHEEL.licence}), sha256 {WHEEL.sha256}"
    source = f"fitted by python -m eplb.bench.kernels to {wheel}"
    entries = []
    for name, kernel in fitted.items():
        known = asdict(kernel)
        regimes = ",\n    ".join(json.dumps(regime) for regime in known.pop("regimes"))
        del known["name"]
        head = json.dumps(known).removesuffix("}")
        entries.append(f'  "{name}": {head}, "regimes": [\n    {regimes}]}}')
    return f'{{"source": {json.dumps(source)},\n "kernels": {{\n' + ",\n".join(entries) + "}}\n"


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m eplb.bench.kernels", description=__doc__)
    output = {"type": output_argument, "metavar": "FILE", "help": "fit anew, and write them there"}
    parser.add_argument("--output", **output)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(download(WHEEL, Path(folder))) as wheel:
            measured = list(tables(wheel))
    known = kernels() if args.output is None else {table.name: fit(table) for table in measured}
    print(report(measured, known))
    if args.output is not None:
        write_text(args.output, as_json(known))
    return DONE


if __name__ == "__main__":
    exit_on_user_error(main)

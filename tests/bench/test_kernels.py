"""Fitting step times to measured tables: `pytest tests/bench/test_kernels.py`.

The tables themselves are not fetched here; `python -m eplb.bench.kernels` checks every row.
"""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pandas as pd
import pytest

from eplb.bench import kernels as fitting
from eplb.bench.kernels import Table, as_json, fit, report
from eplb.throughput.kernels import Kernel, Regime, kernel, kernels


def table_of(model: Kernel, name: str, noise: float = 0.0) -> Table:
    """What ``model`` would be measured at: uniform loads over 4 to 64 slots."""
    slots, tokens = (
        axis.ravel().astype(float)
        for axis in np.meshgrid([4, 8, 16, 64], [16, 256, 2048, 4096, 8192, 65536])
    )
    rows = tokens * 8 * slots / 256
    active = np.minimum(slots, rows)
    ms = np.array([model.ms(*row) for row in zip(slots, active, rows, tokens)])
    ms *= np.exp(np.random.default_rng(1).normal(0, noise, len(ms)))
    columns = dict(zip(fitting.COLUMNS, (slots, active, rows, tokens, ms), strict=True))
    return Table(name, "somewhere", "fp8_block", 44040192.0, pd.DataFrame(columns))


@pytest.mark.parametrize("name", ["h200-decode", "gb200-prefill"])
def test_a_fit_finds_what_was_measured(name):
    fitted = fit(table_of(kernel(name), name))
    assert fitted.worst_error < 0.04
    assert len(fitted.regimes) == (2 if "prefill" in name else 1)
    noisy = table_of(kernel(name), name, noise=0.1)
    errors = np.abs(noisy.errors(fit(noisy)))
    assert np.median(errors) < 0.12
    # The figures that are kept with a kernel are those of its table.
    assert fit(noisy).median_error == pytest.approx(np.median(errors), abs=1e-4)


def test_the_file_of_constants_holds_what_was_fitted(tmp_path, monkeypatch):
    known = {name: kernel(name) for name in ("h200-decode", "gb200-prefill")}
    assert json.loads(as_json(known))["source"].count("sha256") == 1
    (tmp_path / "kernels.json").write_text(as_json(known))
    monkeypatch.setattr("eplb.throughput.kernels.files", lambda package: tmp_path)
    kernels.cache_clear()
    try:
        assert kernels() == known
    finally:
        kernels.cache_clear()


def test_errors_are_told_by_kernel():
    regime = Regime(1, 10**6, [1, 64], [1.0, 1.0], 0.0, 0.0, 0.0, 0.0, 1.0)
    flat = Kernel("flat", "", "", 1.0, 0, 0.0, 0.0, (regime,))
    table = table_of(kernel("h200-decode"), "flat")
    errors = table.errors(flat)
    np.testing.assert_allclose(errors, 1 / table.data["ms"] - 1)
    line = report([table], {"flat": flat}).splitlines()[1].split()
    assert line[:2] == ["flat", "24"] and line[-1] == f"{np.abs(errors).max():.1%}"


def test_rows_of_a_known_hottest_rank():
    """Columns as the tables have them; the second row has no time and is left out."""
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    columns = {
        "num_tokens": [64, 64, 64],
        "topk": [8, 8, 8],
        "moe_ep_size": [32, 32, 32],
        "num_experts": [256] * 3,
        "num_slots": [256, 256, 288],
        "rank0_num_tokens": [40, 1, 10],
        "distribution": ["power_law_1.2", "power_law_1.2", "power_law_1.2_eplb"],
        "moe_dtype": ["nvfp4"] * 3,
        "hidden_size": [7168] * 3,
        "inter_size": [2048] * 3,
        "latency": [0.2, None, 0.1],
    }
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("aiconfigurator_core/systems/data/here.parquet", file.getvalue())
    data = fitting._read(zipfile.ZipFile(archive), "here")
    table = fitting._table("x-trtllm", "here", data)
    assert table.data.to_numpy().tolist() == [[8, 8, 40, 64, 0.2], [9, 9, 16, 64, 0.1]]
    assert table.bytes_per_expert == pytest.approx(3 * 7168 * 2048 * 4.5 / 8)

"""The synthetic workload model.

Run: python -m pytest tests/workload_model/test_workload_model.py
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eplb.bench import calibration as figures
from eplb.common import UserError
from eplb.trace import Trace, read_trace
from eplb.workload_model import PRESETS, WorkloadModel, generate
from eplb.workload_model.__main__ import main

EMBEDDED = Path(__file__).parents[2] / "expert-load.json"
TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def embedded() -> Trace:
    return read_trace(EMBEDDED)


def test_embedded_trace_is_what_the_command_writes(tmp_path):
    """Twice the same bytes, and those that are committed."""
    again = tmp_path / "again.json"
    assert main(["--output", str(again)]) == 0
    assert again.stat().st_size <= 10_000_000
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (again, EMBEDDED)}
    assert len(digests) == 1


def test_embedded_trace_describes_itself(embedded):
    model = PRESETS["deepseek-v3"]
    assert embedded.loads.shape == (120, 58, 256)
    assert embedded.header == model.header
    assert "synthetic" in embedded.header.source
    assert (embedded.header.rebalance_interval, embedded.header.top_k) == (10, 8)
    assert embedded.windows().shape == (12, 58, 256)


def test_windows_of_requests_are_noisy_and_do_not_drift():
    windows = generate(replace(PRESETS["requests"], layers=8)).windows()
    change = PRESETS["requests"].regime_window

    def correlation(apart):
        pairs = [(i, i + apart) for i in range(len(windows) - apart)]
        same = [pair for pair in pairs if (pair[0] < change) == (pair[1] < change)]
        return np.mean(
            [
                np.corrcoef(a, b)[0, 1]
                for i, j in same
                for a, b in zip(windows[i], windows[j], strict=True)
            ]
        )

    assert 0.8 < correlation(1) < 0.9
    assert abs(correlation(5) - correlation(1)) < 0.03


def any_model() -> st.SearchStrategy[WorkloadModel]:
    return st.builds(
        lambda groups, size, share, **rest: WorkloadModel(
            num_groups=groups, experts=groups * size, top_k=max(1, round(share * groups * size)),
            **rest,
        ),
        groups=st.integers(1, 4),
        size=st.integers(1, 8),
        share=st.floats(0, 1),
        layers=st.integers(1, 3),
        windows=st.integers(1, 4),
        records_per_window=st.integers(1, 3),
        tokens_per_record=st.integers(1, 3000),
        skew=st.floats(0, 2),
        group_skew=st.floats(0, 1),
        specialisation=st.floats(0, 1),
        domains=st.integers(1, 3),
        drift=st.floats(0, 1),
        burstiness=st.floats(0, 2),
        regime_window=st.none() | st.integers(0, 5),
        seed=st.integers(0, 2**32),
    )  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(model=any_model())
def test_tokens_add_up_for_every_shape(model):
    """Every token meets top_k different experts in every layer of a record."""
    loads = generate(model).loads
    assert loads.shape == (model.records, model.layers, model.experts)
    assert loads.dtype == np.int64
    total = loads.sum(axis=2)
    tokens = total[:, :1] // model.top_k
    assert (total == tokens * model.top_k).all()
    assert (tokens > 0).all()
    assert (loads >= 0).all()
    assert (loads <= tokens[:, :, None]).all()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets(name):
    """Every preset works; the large ones are cut short here."""
    model = replace(PRESETS[name], windows=2, records_per_window=1)
    assert generate(model).loads.shape == (2, model.layers, model.experts)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("deepseek-v3", (58, 256, 8, 8)),
        ("qwen3-235b", (94, 128, 1, 8)),
        ("kimi-k2", (60, 384, 1, 8)),
    ],
)
def test_shapes_of_real_models(name, shape):
    model = PRESETS[name]
    assert (model.layers, model.experts, model.num_groups, model.top_k) == shape


def test_seeds_differ_and_repeat():
    one, again, other = generate(TINY), generate(TINY), generate(replace(TINY, seed=1))
    assert np.array_equal(one.loads, again.loads)
    assert not np.array_equal(one.loads, other.loads)


def test_random_numbers_are_fixed():
    """The bytes of a trace rest on these; numpy promises its raw PCG64 words, nothing else."""
    loads = generate(TINY).loads
    assert hashlib.sha256(loads.astype("<i8").tobytes()).hexdigest() == TINY_SHA256


TINY_SHA256 = "b2b1d2503f879636b3a6342387400d7dccb58a5b1a72c2fe52edfca2eeaafd25"


def windows_of(**changes) -> np.ndarray:
    model = replace(PRESETS["deepseek-v3"], layers=12, **changes)
    return generate(model).windows().astype(float)


def test_regime_change_and_stationarity():
    """The mixture changes once, at the window that was asked for, or never."""
    for regime in (3, 6):
        loads = windows_of(regime_window=regime, shifts=())
        pairs = figures.correlation(loads[:-1], loads[1:])
        assert pairs.argmin() == regime - 1
        assert pairs[regime - 1] < 0.5 < np.delete(pairs, regime - 1).min()
    loads = windows_of(regime_window=None, shifts=())
    assert figures.correlation(loads[:-1], loads[1:]).min() > 0.8


def test_parameters_do_what_they_say():
    calm = {"regime_window": None, "shifts": ()}
    plain = windows_of(**calm)

    def skew(loads):
        return stats.variation(loads, axis=-1).mean()

    assert skew(windows_of(**calm, skew=1.2)) > 1.2 * skew(plain)
    groups = figures.unit_imbalance(windows_of(**calm, group_skew=1.0), 8).mean()
    assert groups > 1.2 * figures.unit_imbalance(plain, 8).mean()
    drifting = windows_of(**calm, memory=1.0)
    assert figures.over_poisson(drifting).mean() > 1.5 * figures.over_poisson(plain).mean()


def test_bursts_show_between_records_of_a_window():
    def roughness(burstiness):
        model = replace(PRESETS["deepseek-v3"], layers=8, windows=3, burstiness=burstiness)
        return figures.over_poisson(generate(model).loads.astype(float)).mean()

    assert roughness(1.0) > 1.5 * roughness(0.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"experts": 30, "num_groups": 4}, "num_groups 4 does not divide"),
        ({"top_k": 1000}, "top_k 1000"),
        ({"drift": 1.5}, "drift is 1.5"),
    ],
)
def test_impossible_models(changes, says):
    with pytest.raises(UserError, match=says):
        generate(replace(TINY, **changes))


def test_command_writes(tmp_path):
    path = tmp_path / "t.json"
    assert main(["--output", str(path), "--preset", "tiny", "--seed", "5"]) == 0
    assert read_trace(path).header.seed == 5
    assert np.array_equal(read_trace(path).loads, generate(replace(TINY, seed=5)).loads)


def test_command_needs_somewhere_to_write():
    with pytest.raises(UserError, match="required: --output; see"):
        main([])

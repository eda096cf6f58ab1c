"""The step-time model and its constants: `pytest tests/throughput/test_kernels.py`.

Measured times are those of aiconfigurator-core 0.12.0, in milliseconds.
"""

from __future__ import annotations

import numpy as np
import pytest

from eplb.common import UserError
from eplb.throughput.kernels import kernel, kernels

UNIFORM = [name for name in kernels() if "trtllm" not in name]
KNOWN_HOTTEST = [name for name in kernels() if "trtllm" in name]


def test_there_are_kernels_of_four_gpus_in_both_phases():
    for gpu in ("h100", "h200", "b200", "gb200"):
        assert {f"{gpu}-prefill", f"{gpu}-decode"} <= set(UNIFORM)
        assert f"{gpu}-trtllm-7168x2048" in KNOWN_HOTTEST


@pytest.mark.parametrize("name", UNIFORM)
def test_uniform_rows_are_met(name):
    assert kernel(name).median_error <= 0.05 and kernel(name).worst_error <= 0.20


@pytest.mark.parametrize("name", KNOWN_HOTTEST)
def test_rows_of_known_hottest_rank_are_met(name):
    assert kernel(name).median_error <= 0.15


# The GPU's slots and the step's tokens, and the measured time; uniform over 256 slots.
MEASURED = [
    ("h200-prefill", 8, 8192, 0.4115),
    ("h200-prefill", 8, 131072, 3.2470),
    ("h200-prefill", 64, 4096, 1.1971),
    ("h200-decode", 8, 256, 0.1142),
    ("h200-decode", 8, 4096, 0.1242),
    ("h200-decode", 1, 32768, 0.0883),
    ("gb200-decode", 64, 512, 0.4877),
    ("h100-decode", 4, 8192, 0.1099),
    ("b200-prefill", 16, 65536, 1.9210),
]


@pytest.mark.parametrize("name, slots, tokens, ms", MEASURED)
def test_measured_uniform_loads(name, slots, tokens, ms):
    rows = tokens * 8 * slots / 256
    assert kernel(name).ms(slots, min(slots, rows), rows, tokens) == pytest.approx(ms, rel=0.1)


def test_spare_slots_lose_at_small_batch_and_win_at_large_on_gb200():
    """No EPLB, EPLB with 256 slots and with 288, EP32: slots, rows of the hottest GPU, time."""
    gb200 = kernel("gb200-trtllm-7168x2048")
    for tokens, measured in (
        (512, [(8, 239, 0.094), (8, 128, 0.078), (9, 111, 0.125)]),
        (2048, [(8, 1293, 0.134), (8, 513, 0.089), (9, 503, 0.150)]),
        (16384, [(8, 12241, 0.663), (8, 11624, 0.526), (9, 4271, 0.345)]),
    ):
        model = [float(gb200.ms(slots, slots, rows, tokens)) for slots, rows, _ in measured]
        assert model == pytest.approx([ms for _, _, ms in measured], rel=0.2)
        order = sorted(range(3), key=lambda index: measured[index][2])
        assert sorted(range(3), key=lambda index: model[index]) == order


@pytest.mark.parametrize("gpu", ["h100", "h200", "b200", "gb200"])
def test_skew_costs_nothing_below_the_knee_in_decode_and_much_above(gpu):
    decode = kernel(f"{gpu}-decode")

    def price_of_skew(tokens):
        rows = tokens * 8 / 32
        return decode.ms(8, 8, 3 * rows, tokens) / decode.ms(8, 8, rows, tokens) - 1

    assert price_of_skew(256) < 0.02
    assert price_of_skew(4096) > 0.4


@pytest.mark.parametrize("gpu", ["h100", "h200", "b200", "gb200"])
def test_below_the_knee_more_slots_cost_time_in_decode(gpu):
    decode = kernel(f"{gpu}-decode")
    assert decode.ms(9, 9, 32, 128) > 1.05 * decode.ms(8, 8, 32, 128)


@pytest.mark.parametrize("name", list(kernels()))
def test_time_grows_with_rows_slots_that_are_active_and_size(name):
    model = kernel(name)
    rows = np.array([0.0, 1, 10, 100, 1e3, 1e4, 1e5])
    for tokens in (1, 64, 4096, 6000, 8192, 131072):
        assert (np.diff(model.ms(8, 8, rows, tokens)) >= 0).all()
        assert model.ms(8, 8, 1e4, tokens) >= model.ms(8, 4, 1e4, tokens)
        assert model.ms(8, 8, 1e4, tokens, size=2.0) > model.ms(8, 8, 1e4, tokens)


def test_there_is_no_jump_between_the_regimes_of_prefill():
    model = kernel("h200-prefill")
    for tokens in (4096, 8192):
        below, above = (model.ms(8, 8, 2000.0, tokens + step) for step in (-1, 1))
        assert above == pytest.approx(below, rel=1e-3)


def test_an_unknown_kernel_is_an_error_that_names_the_known():
    with pytest.raises(UserError, match="no kernel tpu; there are h100-prefill"):
        kernel("tpu")

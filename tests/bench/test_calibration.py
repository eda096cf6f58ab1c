"""The calibration's figures and verdicts. `pytest tests/bench/test_calibration.py`"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eplb.bench import calibration as figures
from eplb.bench.calibration import Row, calibration, main, report
from eplb.common import UserError, project_file
from eplb.trace import read_trace
from eplb.workload_model import PRESETS, generate

EMBEDDED = project_file("expert-load.json")


def test_calibration_holds_for_the_embedded_trace():
    text, good = report(read_trace(EMBEDDED))
    assert good, text
    assert max(map(len, text.splitlines())) <= 80


def test_calibration_fails_for_another_workload():
    text, good = report(generate(replace(PRESETS["stationary"], seed=1)))
    assert not good
    assert " OUT\n" in text


def test_calibration_needs_the_published_shape():
    with pytest.raises(UserError, match="12 x 58 x 256"):
        calibration(generate(PRESETS["tiny"]))


def test_rows_judge_every_value_they_show():
    def within(target, values, **kwargs):
        return Row("", target, np.array(values), **kwargs).within

    assert within((10, 10), [9.0]) and within((10, 10), [11.0])
    assert not within((10, 10), [8.9]) and not within((10, 10), [11.1])
    assert within((5, 8), [4.5, 8.8]) and not within((5, 8), [4.4, 6])
    assert within((0.3, 0.3), [0.329], ratio=True) and not within((0.3, 0.3), [0.34], ratio=True)


def test_figures_on_a_case_worked_by_hand():
    loads = np.array([[[4.0, 2.0, 1.0, 1.0]], [[1.0, 1.0, 2.0, 4.0]]])
    assert figures.imbalance(loads).tolist() == [[1.0], [1.0]]
    assert figures.unit_imbalance(loads, 2).tolist() == [[0.5], [0.5]]
    assert figures.sorted_relative(loads)[0, 0].tolist() == [2.0, 1.0, 0.5, 0.5]
    assert figures.hottest_share(loads, 0.25).tolist() == [[0.5], [0.5]]
    differences = np.abs(loads[0, 0][:, None] - loads[0, 0])
    assert figures.gini(loads)[0, 0] == pytest.approx(differences.mean() / 2 / loads[0, 0].mean())
    assert figures.hill(loads, 0.5)[0, 0] == pytest.approx(2 / (np.log(4) + np.log(2)))
    assert figures.correlation(loads[0], loads[0]) == pytest.approx(1)
    assert figures.over_poisson(loads)[0] == pytest.approx((9 + 1 + 1 + 9) / 16)


def test_calibration_command_reports(tmp_path, capsys):
    assert main([]) == 0
    assert " 0 out" in capsys.readouterr().out
    assert main(["--seed", "1"]) == 1
    assert " OUT\n" in capsys.readouterr().out
    with pytest.raises(UserError, match="not allowed with"):
        main(["--seed", "1", "--trace", str(EMBEDDED)])
    with pytest.raises(UserError, match="does not exist"):
        main(["--trace", str(tmp_path / "none.json")])

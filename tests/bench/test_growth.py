"""The study of growth. `pytest tests/bench/test_growth.py`"""

from __future__ import annotations

import re

import pytest

from eplb.bench import growth
from eplb.common import UserError, project_file


def test_exponent_of_a_power_law():
    slots = [10, 100, 1000]
    assert growth.exponent(slots, [1.0, 10**1.5, 10**3.0]) == pytest.approx(1.5)


def test_sizes_are_deployable_and_reach_the_largest():
    for size in growth.SIZES:
        size.deployment.check(size.experts)
    assert growth.SIZES[-1] == growth.Size(128, 1024, 1024)


def test_times_programs_and_draws_them_with_names_and_exponents(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growth, "SIZES", [growth.Size(1, 8, 2), growth.Size(2, 8, 2)])
    seed, plot = str(project_file("initial.py")), tmp_path / "growth.svg"
    assert growth.main(["--programs", seed, "--repeats", "1", "--plot", str(plot)]) == 0
    assert re.search(
        r"program \| 1 x 8 x 2 \| 2 x 8 x 2 .*\n.*\n\| initial.py ", capsys.readouterr().out
    )
    picture = plot.read_text()
    for text in ("initial: n^", "n log n", "How the time of one call grows"):
        assert text in picture


def test_a_size_that_is_too_large_for_a_program_is_a_gap(tmp_path, monkeypatch, capsys):
    sizes = [growth.Size(1, 8, 2), growth.Size(2, 8, 2), growth.Size(3, 8, 2)]
    monkeypatch.setattr(growth, "SIZES", sizes)
    picky = tmp_path / "picky.py"
    seed = project_file("initial.py").read_text()
    picky.write_text(
        seed + "\nplace = run_eplb\ndef run_eplb(weight, *sizes):\n"
        "    assert len(weight) < 3\n    return place(weight, *sizes)\n"
    )
    assert growth.main(["--programs", str(picky), "--repeats", "1"]) == 0
    assert re.search(r"picky.py \| [\d.]+ \| [\d.]+ \| refused \| ", capsys.readouterr().out)


def test_growth_refuses_what_it_cannot_time_in_one_line(tmp_path):
    with pytest.raises(UserError, match="--repeats: 0 is not a whole number of at least 1"):
        growth.main(["--repeats", "0"])
    broken = tmp_path / "syntax.py"
    broken.write_text("def (")
    with pytest.raises(UserError, match="syntax.py is refused at 8 x 64 x 64: .*SyntaxErr"):
        growth.main(["--programs", str(broken)])
    for wrong, why in (
        (["--programs", str(tmp_path / "none.py")], "none.py: No such file .*name one that can"),
        (["--programs", str(tmp_path)], "Is a directory"),
        (["--plot", str(tmp_path / "it.foo")], "ends in none of .png"),
        (["--plot", str(broken / "it.png")], "is a file"),
    ):
        with pytest.raises(UserError, match=why):
            growth.main(wrong)

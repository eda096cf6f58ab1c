"""Deployment profiles: `pytest tests/throughput/test_profile.py`."""

from __future__ import annotations

import argparse

import pytest

from eplb.common import UserError, project_file
from eplb.throughput.profile import (
    DEFAULT,
    Rebalancing,
    Serving,
    add_arguments,
    default_serving,
    presets,
    read,
)


def test_every_preset_can_be_read_and_the_default_is_one():
    assert DEFAULT in presets()
    for name in presets():
        profiles = read([name])
        assert set(profiles) == {"prefill", "decode"}
        assert profiles["prefill"].kernel.split("-")[0] == name.split("-")[0]


def test_a_copied_preset_is_the_preset(tmp_path):
    copy = tmp_path / "mine.yaml"
    copy.write_text(project_file("configs/hardware/h200.yaml").read_text())
    assert read([str(copy)]) == read(["h200"])


def test_fields_are_set_for_both_phases_or_for_one():
    plain = read(["h200"])
    changed = read(["h200", "decode.tokens_per_gpu=64", "steps_per_window=5", "fixed_stall=0.9"])
    assert changed["decode"].tokens_per_gpu == 64
    assert changed["prefill"].tokens_per_gpu == plain["prefill"].tokens_per_gpu
    assert {profile.steps_per_window for profile in changed.values()} == {5}
    # The command line goes before the file, also where the file sets a phase's field.
    both = read(["h200", "tokens_per_gpu=7", "rebalancing=asynchronous", "bytes_per_expert=88e6"])
    for profile in both.values():
        assert (profile.tokens_per_gpu, profile.bytes_per_expert) == (7, 88e6)
        assert profile.rebalancing is Rebalancing.asynchronous


def test_what_a_recording_tells_goes_before_the_file_and_after_the_command_line():
    assert read(["h200"], top_k=6)["decode"].top_k == 6
    assert read(["h200", "top_k=4"], top_k=6)["decode"].top_k == 4


@pytest.mark.parametrize(
    "hardware, reason",
    [
        (["h300"], "neither a file nor one of .*h200"),
        (["h200", "decode.tokens_per_gpu=0"], "tokens_per_gpu is 0; it must be positive"),
        (["h200", "link_within_node=nan"], "link_within_node is nan"),
        (["h200", "fixed_stall=-1"], "fixed_stall is -1"),
        (["h200", "rebalancing=later"], "expected one of .blocking, asynchronous"),
        (["h200", "colour=red"], "there is no colour; it has kernel, "),
        (["h200", "decode.tokens_per_gp=4"], "no tokens_per_gp; did you mean tokens_per_gpu"),
        (["h200", "decod.top_k=4"], "no decod; did you mean decode"),
        (["h200", "top_k=1.5"], "'1.5'.*Integer"),
        (["h200", "decode=3"], "."),
        (["h200", "kernel=tpu"], "no kernel tpu"),
    ],
)
def test_what_makes_no_sense_is_one_line(hardware, reason):
    with pytest.raises(UserError, match=reason) as error:
        read(hardware)
    assert str(error.value).startswith("--hardware h") and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[1, 2]", "kernel: h200-decode", "a: [", "decode: 3"])
def test_unusable_files_are_named(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="mine.yaml"):
        read([str(path)])


def test_the_option_takes_a_name_and_fields():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args([]).hardware == [DEFAULT]
    assert Serving.of(**vars(parser.parse_args([]))) == default_serving()
    parsed = parser.parse_args(["--hardware", "b200", "decode.top_k=4"])
    assert read(parsed.hardware)["decode"].top_k == 4
    assert "decode.tokens_per_gpu" in parser.format_help()

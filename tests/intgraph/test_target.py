# SPDX-License-Identifier: Apache-2.0
"""Target profiles: what the library's own say, what a file may say, and what is refused."""

import json
from dataclasses import replace

import pytest

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import Overflow, Rounding
from yolo_hw.intgraph.target import Slope, Span, TargetProfile
from yolo_hw.intgraph.target_profiles import TARGETS, find_target, load_target


def test_every_profile_names_its_sources():
    assert list(TARGETS) == ["generic", "dpu-like", "dhm-int16", "shift-leaky", "hls4ml-like", "nngen-like"]
    for name, profile in TARGETS.items():
        assert profile.name == name
        assert len(profile.about) > 80
        assert name in ("generic", "shift-leaky") or "Not modelled: " in profile.about


def test_published_numbers():
    dpu, dhm = TARGETS["dpu-like"], TARGETS["dhm-int16"]
    assert (dpu.conv_shift, dpu.align_shift, dpu.element_shift) == ((0, 16), (0, 7), (-15, 15))
    assert (dpu.roundings, dpu.leaky) == ((Rounding.HALF_UP,), ((26, 8),))
    assert (dhm.roundings, dhm.overflows, dhm.leaky) == ((Rounding.FLOOR,), (Overflow.WRAP,), ((3276, 15),))


@pytest.mark.parametrize("wq", range(16))
def test_the_16_bit_engines_asserts_become_spans(wq):
    """0 <= WQ + IQ - 19 < 32, 0 <= 19 - OQ < 32 and 0 <= 19 - BQ < 32 for every Q in 0..15."""
    dhm = TARGETS["dhm-int16"]
    for iq in range(16):
        asserts = 0 <= wq + iq - 19 < 32
        assert bool(dhm.acc_frac.holds(wq + iq)) == asserts
        for q in range(16):
            if asserts:
                assert dhm.conv_shift.holds(wq + iq - q)
                assert dhm.bias_shift.holds(wq + iq - q)


def write(path, document):
    path.write_text(json.dumps(document), "utf-8")
    return path


def test_a_file_changes_fields_of_its_base(tmp_path):
    path = tmp_path / "board.toml"
    path.write_text(
        'name = "board"\nabout = "ours"\nbase = "dpu-like"\nacc_bits = 24\nconv_shift = [1, 15]\n'
        'roundings = ["floor", "half_up"]\nleaky = [[1, 3]]\nw_bits = [4, 8]\nunsigned = true\n',
        "utf-8",
    )
    expected = replace(
        TARGETS["dpu-like"], name="board", about="ours", acc_bits=24, conv_shift=Span(1, 15), w_bits=(4, 8),
        roundings=(Rounding.FLOOR, Rounding.HALF_UP), leaky=(Slope(1, 3),), unsigned=True,
    )  # fmt: skip
    assert find_target(str(path)) == expected
    document = {"name": "any", "about": "x", "base": "dpu-like", "leaky": "any"}
    assert load_target(write(tmp_path / "any.json", document)).leaky is None
    plain = load_target(write(tmp_path / "plain.json", {"name": "plain", "about": "x"}))
    assert plain == replace(TARGETS["generic"], name="plain", about="x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv_shfit": [0, 1]}, "conv_shfit"),
        ({"conv_shift": [0]}, "conv_shift"),
        ({"conv_shift": [0.0, 4]}, "conv_shift"),
        ({"conv_shift": [4, 0]}, r"conv_shift must be a span within \[-16, 47\]"),
        ({"conv_shift": [-17, 0]}, r"conv_shift must be a span within \[-16, 47\]"),
        ({"align_shift": [1, 3]}, "align_shift must begin at 0"),
        ({"acc_bits": 64}, r"acc_bits must lie in \[2, 48\], got 64"),
        ({"bias_bits": 33}, r"bias_bits must lie in \[2, 32\]"),
        ({"table_bits": 17}, "table_bits must lie in"),
        ({"w_bits": [1]}, "w_bits must name at least one of"),
        ({"ops": ["convolution"]}, "ops must name at least one of"),
        ({"activations": []}, "activations"),
        ({"roundings": ["up"]}, "roundings"),
        ({"leaky": []}, "leaky"),
        ({"leaky": [[0, 3]]}, "leaky mul must be in"),
        ({"base": "dpu"}, "base"),
        ({"name": ""}, "name"),
        ({"unsigned": 1}, "unsigned"),
    ],
)
def test_wrong_files_are_refused_with_file_and_field(tmp_path, change, message):
    path = write(tmp_path / "wrong.json", {"name": "wrong", "about": "x", **change})
    with pytest.raises(QuantError, match=message) as caught:
        load_target(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(("name", "text"), [("a.toml", "name ="), ("a.json", "{"), ("b.toml", None)])
def test_unreadable_files_are_named(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(QuantError, match=f"{name}: a target profile must be readable TOML or JSON"):
        load_target(tmp_path / name)


def test_a_name_and_a_reason_are_required(tmp_path):
    with pytest.raises(QuantError, match="'about' is a required property"):
        load_target(write(tmp_path / "a.json", {"name": "a"}))


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(QuantError, match="target 'dpu_like' is unknown; did you mean 'dpu-like'"):
        find_target("dpu_like")


def test_profiles_in_code_are_checked_too():
    with pytest.raises(QuantError, match="target 'x': leaky must name a slope"):
        TargetProfile(name="x", about="x", leaky=())

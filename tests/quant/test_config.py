# SPDX-License-Identifier: Apache-2.0
"""Options of post-training quantisation: overrides and values out of range."""

import importlib
import pkgutil
import sys
from dataclasses import is_dataclass, replace
from enum import Enum
from typing import get_type_hints

import pytest

import yolo_hw.quant
from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import Overflow, Rounding
from yolo_hw.intgraph import NumericContract
from yolo_hw.intgraph.target_profiles import TARGETS
from yolo_hw.quant import LeakySlope, Override, QuantConfig
from yolo_hw.search_log import fingerprint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("conv_0:w=8,a=16", Override("conv_0", 8, 16)),
        ("conv_*:w=4", Override("conv_*", 4, None)),
        ("yolo?:a=5", Override("yolo?", None, 5)),
        ("conv_1: a = 7 , w = 6", Override("conv_1", 6, 7)),
    ],
)
def test_overrides_parse(text, expected):
    assert Override.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "conv_0", "conv_0:", ":w=8", "conv_0:w", "conv_0:w=x", "conv_0:b=8", "conv_0:w=8;a=8", "a:w=8,w=4"]
)
def test_malformed_overrides_are_quoted(text):
    with pytest.raises(QuantError, match="PATTERN:w=BITS") as caught:
        Override.parse(text)
    assert f"'{text}'" in str(caught.value)


def test_the_last_matching_override_wins():
    config = QuantConfig(overrides=(Override("conv_*", 4, 5), Override("conv_1?", w_bits=6), Override("*2", a_bits=16)))
    assert [config.weight_bits(name) for name in ("conv_3", "conv_12", "add_1")] == [4, 6, 8]
    assert [config.activation_bits(name) for name in ("conv_3", "conv_12", "add_1")] == [5, 16, 8]


@pytest.mark.parametrize(
    ("options", "acc_bits"),
    [({}, 32), ({"w_bits": 4}, 32), ({"a_bits": 16}, 48), ({"overrides": (Override("x", w_bits=16),)}, 48)],
)
def test_wide_words_have_wide_accumulators(options, acc_bits):
    assert QuantConfig(**options).contract == NumericContract(acc_bits=acc_bits)


def test_the_contract_follows_the_options():
    contract = QuantConfig(rounding=Rounding.FLOOR, overflow=Overflow.WRAP).contract
    assert (contract.rounding, contract.overflow) == (Rounding.FLOOR, Overflow.WRAP)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"w_bits": 9}, "w_bits must be one of 2, 3, 4, 5, 6, 7, 8, 16, got 9"),
        ({"a_bits": 1}, "a_bits must be one of 2, 3, 4, 5, 6, 7, 8, 16, got 1"),
        ({"overrides": (Override("conv_0", a_bits=32),)}, "conv_0:a must be one of"),
        ({"overrides": (Override("conv_0"),)}, "override 'conv_0' must give w_bits, a_bits or both"),
        ({"equalise": 1.5}, r"equalise must be in \[0, 1\], got 1.5"),
        ({"percentile": 50}, r"percentile must be in \(50, 100\], got 50"),
        ({"percentile": 100.1}, r"percentile must be in \(50, 100\], got 100.1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(QuantError, match=message):
        QuantConfig(**options)


def test_the_target_supplies_what_is_not_typed():
    config = QuantConfig(target="dpu-like")
    assert (config.w_bits, config.a_bits, config.per_channel, config.unsigned) == (8, 8, False, False)
    assert (config.rounding, config.overflow, config.leaky) == (Rounding.HALF_UP, Overflow.SATURATE, LeakySlope(26, 8))
    wide = QuantConfig(target="dhm-int16")
    assert (wide.w_bits, wide.a_bits, wide.contract.acc_bits) == (16, 16, 48)
    assert (wide.contract.rounding, wide.contract.overflow) == (Rounding.FLOOR, Overflow.WRAP)
    plain = QuantConfig()
    assert plain == QuantConfig(
        w_bits=8, a_bits=8, per_channel=True, unsigned=True, rounding=Rounding.HALF_UP, overflow=Overflow.SATURATE,
        leaky=LeakySlope(51, 9),
    )  # fmt: skip


def test_a_narrow_accumulator_keeps_the_contract_at_32_bits():
    profile = replace(TARGETS["generic"], name="narrow", acc_bits=24)
    assert QuantConfig(target=profile, a_bits=16).contract.acc_bits == 32


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("dpu-like", {"w_bits": 4}, "w_bits=4 is not possible on target 'dpu-like', which has 8"),
        ("dpu-like", {"a_bits": 16}, "a_bits=16 is not possible on target 'dpu-like'"),
        ("dpu-like", {"per_channel": True}, "per_channel=True is not possible on target 'dpu-like', which has False"),
        ("dpu-like", {"unsigned": True}, "unsigned=True is not possible"),
        ("nngen-like", {"rounding": Rounding.FLOOR}, "rounding=floor is not possible.*which has half_away"),
        ("dhm-int16", {"overflow": Overflow.SATURATE}, "overflow=saturate is not possible.*which has wrap"),
        ("hls4ml-like", {"leaky": LeakySlope()}, "leaky=51/9 is not possible on target 'hls4ml-like', which has 1/3"),
        ("dpu-like", {"overrides": (Override("conv_0", a_bits=4),)}, "conv_0:a=4 is not possible.*which has 8"),
        ("dpu", {}, "target 'dpu' is unknown"),
    ],
)
def test_what_the_target_forbids_is_an_error_that_names_both(target, options, message):
    with pytest.raises(QuantError, match=message):
        QuantConfig(target=target, **options)


def test_a_profile_file_is_read_once(tmp_path):
    """What has been measured with it stays with it: a search's log tells other contents apart."""
    path = tmp_path / "board.toml"
    text = 'name = "board"\nabout = "Ours."\nconv_shift = [0, {}]\n'
    path.write_text(text.format(15))
    config = QuantConfig(target=str(path))
    path.write_text(text.format(9))
    assert replace(config, w_bits=4).profile.conv_shift == (0, 15)
    again = QuantConfig(target=str(path))
    assert again.profile.conv_shift == (0, 9)
    assert fingerprint({}, config) != fingerprint({}, again)


@pytest.mark.parametrize(("mul", "shift"), [(0, 3), (1 << 16, 3), (1, -1), (1, 32)])
def test_slopes_out_of_range_are_refused(mul, shift):
    with pytest.raises(QuantError, match="leaky slope"):
        LeakySlope(mul, shift)


def test_the_default_slope_rounds_like_a_tenth_on_every_negative_byte():
    slope = LeakySlope()
    for code in range(-128, 0):
        exact = (2 * code + 10) // 20  # floor(code / 10 + 1/2)
        assert (code * slope.mul + (1 << (slope.shift - 1))) >> slope.shift == exact


def config_classes():
    """Return the dataclasses of `yolo_hw.quant` called ...Config, and the names of their enum fields."""
    for info in pkgutil.walk_packages(yolo_hw.quant.__path__, "yolo_hw.quant."):
        importlib.import_module(info.name)
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith("yolo_hw.quant.")]
    found = {
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == module.__name__
    }
    return [
        (kind, name, hint)
        for kind in sorted(found, key=lambda kind: kind.__name__)
        if kind.__name__.endswith("Config")
        for name, hint in get_type_hints(kind).items()
        if isinstance(hint, type) and issubclass(hint, Enum)
    ]


ENUM_FIELDS = config_classes()


def test_every_config_with_enums_is_seen():
    assert {kind.__name__ for kind, _, _ in ENUM_FIELDS} == {"QuantConfig", "QatConfig", "SensitivityConfig"}
    assert len(ENUM_FIELDS) >= 10


@pytest.mark.parametrize(("kind", "field", "enum"), ENUM_FIELDS, ids=[f"{k.__name__}.{f}" for k, f, _ in ENUM_FIELDS])
def test_plain_words_are_members_and_other_words_are_refused(kind, field, enum):
    for member in enum:
        assert getattr(kind(**{field: member.value}), field) is member
        assert kind(**{field: member.value}) == kind(**{field: member})
    known = ", ".join(member.value for member in enum)
    with pytest.raises(QuantError, match=f"{field} must be one of {known}, got 'other'"):
        kind(**{field: "other"})


def test_a_misspelt_word_is_corrected():
    with pytest.raises(QuantError, match=r"equalise_by must be one of .*got 'weight'; did you mean 'weights'"):
        QuantConfig(equalise_by="weight")
    with pytest.raises(QuantError, match=r"a_observer must be one of .*got 'None'"):
        QuantConfig(a_observer=None)

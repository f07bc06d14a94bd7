# SPDX-License-Identifier: Apache-2.0
"""Rounding of weights and biases: known codes, and legal integers for any weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding, quantise, signed_bits
from yolo_hw.geometry import Window
from yolo_hw.quant import Observer, QuantConfig
from yolo_hw.quant.folded import FoldedConv
from yolo_hw.quant.observers import finest_frac
from yolo_hw.quant.weights import ConvContext, choose_fracs, dequantised, quantise_conv

CONTEXT = ConvContext(FixedPoint(8, 8, False), FixedPoint(8, 4), 0)


def conv(rows, bias=None):
    rows = np.array(rows, np.float64)
    k, c = rows.shape
    bias = np.zeros(k) if bias is None else np.array(bias, np.float64)
    return FoldedConv(
        name="conv_5", inputs=("input",), shape=Shape(k, 1, 1), weight=rows.reshape(k, c, 1, 1), bias=bias,
        window=Window((1, 1)),
    )  # fmt: skip


def rounded(rows, bias=None, context=CONTEXT, **options):
    codes, note = quantise_conv(conv(rows, bias), context, QuantConfig(w_observer=Observer.MAX, **options))
    return codes.weight[:, :, 0, 0].tolist(), codes.w_frac.tolist(), codes.bias.tolist(), note


def test_per_channel_and_per_tensor():
    rows = [[1.0, 0.5], [100.0, -50.0]]
    assert rounded(rows)[:2] == ([[64, 32], [100, -50]], [6, 0])
    assert rounded(rows, per_channel=False)[:2] == ([[1, 1], [100, -50]], [0, 0])


@pytest.mark.parametrize(("bits", "codes", "frac"), [(4, [6, -4], 2), (8, [96, -64], 6), (16, [24576, -16384], 14)])
def test_word_lengths(bits, codes, frac):
    assert rounded([[1.5, -1.0]], w_bits=bits)[:2] == ([codes], [frac])


def test_the_lowest_code_is_used():
    """-1 is -128 / 2**7, while 1 needs the coarser step."""
    assert rounded([[-1.0, 0.25], [1.0, 0.25]])[:2] == ([[-128, 32], [64, 16]], [7, 6])


def test_biases_have_the_accumulators_fraction_bits():
    assert rounded([[1.0]], [0.75])[2] == [0.75 * 2 ** (8 + 6)]


@pytest.mark.parametrize("observer", [Observer.MSE, Observer.COSINE])
def test_the_best_step_wins(observer):
    """No other number of fraction bits from the unclipped one upwards has a smaller loss."""
    rows = np.random.default_rng(0).standard_t(3, (12, 400)) / 20
    codes, _ = quantise_conv(conv(rows), CONTEXT, QuantConfig(w_observer=observer, w_bits=4))
    clipped = 0
    for row, frac in zip(rows, codes.w_frac, strict=True):
        finest = max(f for f in range(-10, 20) if row.max() * 2**f < 7.5 and row.min() * 2**f >= -8.5)
        losses = {}
        for f in range(finest, finest + 5):
            q = np.clip(np.floor(row * 2.0**f + 0.5), -8, 7) / 2.0**f
            squared = ((q - row) ** 2).sum()
            losses[f] = squared if observer is Observer.MSE else -(q @ row) / np.sqrt((q @ q) * (row @ row))
        assert losses[int(frac)] == pytest.approx(min(losses.values()), rel=1e-12)
        clipped += int(frac) > finest
    assert clipped > 0


def test_a_dead_channel_keeps_its_bias():
    weight, w_frac, bias, _ = rounded([[0.0, 0.0], [1.0, 1.0]], [3.0, 0.0])
    assert weight[0] == [0, 0]
    assert bias[0] == 3.0 * 2.0 ** (w_frac[0] + 8)


def test_a_large_bias_lowers_w_frac_and_is_reported():
    """2**20 with 8 fraction bits of the input leaves 2 for the weights: 2**30 fits, 2**31 does not."""
    weight, w_frac, bias, note = rounded([[2.0**-10], [1.0]], [2.0**20, 0.0])
    assert (w_frac, bias[0]) == ([2, 6], 2**30)
    assert weight == [[0], [64]]
    assert note == "conv_5: w_frac changed in 1 of 2 channels to keep bias, sum and shift legal"


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_sum_beyond_32_bits_lowers_w_frac(per_channel):
    """The bias code 2**31 - 2**8 fits, but not with 64 * 255 on top of it; per tensor the other channel follows."""
    bias = (2.0**31 - 2**8) / 2**14
    w_frac = rounded([[1.0], [1.0]], [bias, 0.0], per_channel=per_channel)[1]
    assert w_frac == ([5, 6] if per_channel else [5, 5])


@pytest.mark.parametrize(
    ("rounding", "codes"),
    [
        (Rounding.HALF_UP, [64, 1, 0, 2]),
        (Rounding.HALF_EVEN, [64, 0, 0, 2]),
        (Rounding.HALF_AWAY, [64, 1, -1, 2]),
        (Rounding.FLOOR, [64, 0, -1, 1]),
    ],
)
def test_weights_round_like_the_datapath(rounding, codes):
    """With 6 fraction bits the others are 0.5, -0.5 and 1.5."""
    assert rounded([[1.0, 2.0**-7, -(2.0**-7), 3 * 2.0**-7]], rounding=rounding)[0] == [codes]


def test_weights_overflow_like_the_datapath():
    assert rounded([[-1.0]], overflow=Overflow.SATURATE_SYMMETRIC)[0] == [[-127]]


def test_a_layer_without_a_legal_shift_is_named():
    with pytest.raises(QuantError, match=r"conv_5: conv_shift must be in \[-16, 47\], got -20 in channel 0"):
        rounded([[1e-3]], [1e14])


@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.sampled_from([4, 8, 16]),
    per_channel=st.booleans(),
    x_frac=st.integers(-4, 12),
    y_frac=st.integers(-4, 12),
    slope_shift=st.sampled_from([0, 9, 15]),
)
def test_any_weights_become_legal_integers(*, seed, bits, per_channel, x_frac, y_frac, slope_shift):
    rng = np.random.default_rng(seed)
    rows = (
        rng.standard_normal((4, 6)) * np.exp2(rng.integers(-12, 6, (4, 1)).astype(float)) * (rng.random((4, 1)) > 0.2)
    )
    bias = rng.standard_normal(4) * np.exp2(rng.integers(-12, 6, 4).astype(float))
    context = ConvContext(FixedPoint(8, x_frac, False), FixedPoint(8, y_frac), slope_shift)
    config = QuantConfig(w_bits=bits, per_channel=per_channel)
    codes, _ = quantise_conv(conv(rows, bias), context, config)
    matrix = codes.weight.reshape(4, -1)
    assert np.abs(matrix + 0.5).max() < 2 ** (bits - 1)
    assert np.abs(codes.bias).max() < 2**31
    top = np.where(matrix > 0, matrix, 0).sum(1) * 255 + np.maximum(codes.bias, 0)
    bottom = np.where(matrix < 0, matrix, 0).sum(1) * 255 + np.minimum(codes.bias, 0)
    assert signed_bits(int(bottom.min()), int(top.max())) <= config.contract.acc_bits
    shift = codes.w_frac + x_frac - y_frac
    assert shift.min() >= config.contract.min_shift
    assert shift.max() + slope_shift <= config.contract.max_shift
    if not per_channel:
        assert len(set(codes.w_frac.tolist())) == 1


def test_dequantised_values():
    codes, _ = quantise_conv(conv([[1.0, 0.5]], [0.25]), CONTEXT, QuantConfig(w_observer=Observer.MAX))
    weight, bias = dequantised(codes, 8)
    assert weight.reshape(-1).tolist() == [1.0, 0.5]
    assert bias.tolist() == [0.25]


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("observer", [Observer.MAX, Observer.MSE, Observer.COSINE])
@pytest.mark.parametrize("bits", [4, 8])
def test_no_weight_wraps(rounding, observer, bits):
    """Also none that lies within the last step of the format, from where floor leads out of it."""
    config = QuantConfig(rounding=rounding, overflow=Overflow.WRAP, w_observer=observer)
    fmt = FixedPoint(bits, 0)
    ends = np.linspace(0.9, 2.1, 101)[:, None] * 2 ** (bits - 1)
    rows = np.concatenate([-ends, ends * np.linspace(-0.4, 0.4, 7)], axis=1)
    for sign in (1, -1):
        codes = np.ldexp(sign * rows, choose_fracs(sign * rows, bits, config)[:, None])
        assert ((codes >= fmt.lo - 1) & (codes <= fmt.hi + 1)).all()
        assert (quantise(codes, fmt, rounding, Overflow.WRAP) == quantise(codes, fmt, rounding)).all()


@pytest.mark.parametrize("rounding", list(Rounding))
def test_the_range_of_a_map_holds_its_ends_under_every_rounding(rounding):
    for end in np.linspace(3.9, 8.6, 48):
        for lo, hi in ((-end, 1.0), (-1.0, end)):
            fmt = FixedPoint(4, finest_frac(lo, hi, 4, True, rounding))
            codes = np.ldexp(np.array([lo, hi]), fmt.frac)
            wrapped, whole = (quantise(codes, FixedPoint(b, 0), rounding, Overflow.WRAP) for b in (4, 8))
            assert (wrapped == whole).all()

# SPDX-License-Identifier: Apache-2.0
"""Formats, rounding, overflow and quantisation: literal tables and exact arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.exact import exact_overflow, exact_round

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import (
    FixedPoint,
    Overflow,
    Rounding,
    dequantise,
    overflow,
    quantise,
    round_real,
    round_shift,
    signed_bits,
)

HALVES = [-5, -3, -1, 0, 1, 3, 5]
TIES = {
    Rounding.HALF_UP: [-2, -1, 0, 0, 1, 2, 3],
    Rounding.HALF_EVEN: [-2, -2, 0, 0, 0, 2, 2],
    Rounding.HALF_AWAY: [-3, -2, -1, 0, 1, 2, 3],
    Rounding.FLOOR: [-3, -2, -1, 0, 0, 1, 2],
}
"""What -2.5, -1.5, -0.5, 0, 0.5, 1.5, 2.5 become; the columns of docs/numerics.md section 2."""
BESIDE = {"nearest": [-1, 0, 0, 1], "floor": [-1, -1, 0, 0]}
"""What -0.75, -0.25, 0.25, 0.75 become."""

formats = st.builds(
    FixedPoint, st.integers(2, 15), st.integers(-64, 64), st.booleans()
) | st.builds(FixedPoint, st.just(16), st.integers(-64, 64))  # fmt: skip
roundings = st.sampled_from(Rounding)
overflows = st.sampled_from(Overflow)


@pytest.mark.parametrize("mode", list(Rounding))
@pytest.mark.parametrize("shift", [1, 2, 7, 31, 40, 61])
def test_ties_of_a_shift(mode, shift):
    values = [v << (shift - 1) for v in HALVES if abs(v) << (shift - 1) < 1 << 62]
    expected = [code for v, code in zip(HALVES, TIES[mode], strict=True) if abs(v) << (shift - 1) < 1 << 62]
    assert round_shift(values, shift, mode).tolist() == expected


@pytest.mark.parametrize("mode", list(Rounding))
def test_ties_of_real_numbers(mode):
    assert round_real([v / 2 for v in HALVES], mode).tolist() == TIES[mode]


@pytest.mark.parametrize("mode", list(Rounding))
def test_values_beside_ties(mode):
    expected = BESIDE["floor" if mode is Rounding.FLOOR else "nearest"]
    assert round_shift([-3, -1, 1, 3], 2, mode).tolist() == expected
    assert round_real([-0.75, -0.25, 0.25, 0.75], mode).tolist() == expected


@pytest.mark.parametrize("mode", list(Rounding))
def test_the_neighbours_of_a_half_are_no_ties(mode):
    """x - floor(x) is not exact just below zero; -0.49999999999999994 must not be taken for -0.5."""
    below, above = np.nextafter(0.5, 0), np.nextafter(0.5, 1)
    expected = [-1, -1, 0, 0] if mode is Rounding.FLOOR else [-1, 0, 0, 1]
    assert round_real([-above, -below, below, above], mode).tolist() == expected


@pytest.mark.parametrize("mode", list(Rounding))
def test_shifts_to_the_left_are_exact(mode):
    assert round_shift([-3, 0, 5], [0, -4, -16], mode).tolist() == [-3, 0, 5 << 16]


@given(st.integers(-(2**62), 2**62), st.integers(0, 62), roundings)
def test_right_shifts_equal_exact_arithmetic(v, shift, mode):
    assert round_shift(v, shift, mode) == exact_round(Fraction(v, 2**shift), mode)


@given(st.integers(-1000, 1000), st.integers(1, 62), st.integers(-1, 1), roundings)
def test_shifts_at_and_beside_ties_equal_exact_arithmetic(half, shift, off, mode):
    v = (half << (shift - 1)) + off
    if abs(v) < 2**62:
        assert round_shift(v, shift, mode) == exact_round(Fraction(v, 2**shift), mode)


@given(st.floats(-(2.0**60), 2.0**60) | st.integers(-99, 99).map(lambda v: v / 2), roundings)
def test_real_numbers_round_exactly(x, mode):
    assert int(round_real(x, mode)) == exact_round(Fraction(x), mode)


@pytest.mark.parametrize(
    ("bits", "signed", "lo", "hi", "dtype"),
    [
        (2, True, -2, 1, "<i1"),
        (2, False, 0, 3, "<u1"),
        (4, True, -8, 7, "<i1"),
        (8, True, -128, 127, "<i1"),
        (8, False, 0, 255, "<u1"),
        (9, True, -256, 255, "<i2"),
        (15, False, 0, 32767, "<u2"),
        (16, True, -32768, 32767, "<i2"),
    ],
)
def test_ranges(bits, signed, lo, hi, dtype):
    fmt = FixedPoint(bits, 3, signed)
    assert (fmt.lo, fmt.hi, fmt.step) == (lo, hi, 0.125)
    assert fmt.storage_dtype == np.dtype(dtype)
    assert fmt.storage_bytes == np.dtype(dtype).itemsize
    assert str(fmt) == f"{'s' if signed else 'u'}{bits}f3"


@pytest.mark.parametrize(
    ("bits", "frac", "signed"), [(1, 0, True), (17, 0, True), (16, 0, False), (8, 65, True), (8, -65, True)]
)
def test_formats_out_of_range_are_refused(bits, frac, signed):
    with pytest.raises(QuantError, match=str(bits if abs(frac) <= 64 else frac)):
        FixedPoint(bits, frac, signed)


@pytest.mark.parametrize(
    ("mode", "signed", "expected"),
    [
        (Overflow.SATURATE, True, [-8, -8, -8, -7, 0, 7, 7, 7]),
        (Overflow.SATURATE_SYMMETRIC, True, [-7, -7, -7, -7, 0, 7, 7, 7]),
        (Overflow.WRAP, True, [-4, 7, -8, -7, 0, 7, -8, 4]),
        (Overflow.SATURATE, False, [0, 0, 0, 0, 0, 7, 8, 15]),
        (Overflow.SATURATE_SYMMETRIC, False, [0, 0, 0, 0, 0, 7, 8, 15]),
        (Overflow.WRAP, False, [12, 7, 8, 9, 0, 7, 8, 4]),
    ],
)
def test_overflow_of_four_bits(mode, signed, expected):
    assert overflow([-100, -9, -8, -7, 0, 7, 8, 100], FixedPoint(4, 0, signed), mode).tolist() == expected


@given(st.integers(-(2**62), 2**62), formats, overflows)
def test_overflow_equals_exact_arithmetic(v, fmt, mode):
    assert overflow(v, fmt, mode) == exact_overflow(v, fmt, mode)


@given(st.floats(-1e6, 1e6, width=32), st.integers(-20, 20), st.integers(2, 16), roundings, overflows)
def test_quantise_equals_exact_arithmetic(x, frac, bits, rounding, mode):
    fmt = FixedPoint(bits, frac)
    exact = exact_overflow(exact_round(Fraction(x) * Fraction(2) ** frac, rounding), fmt, mode)
    assert quantise(x, fmt, rounding, mode) == exact


def test_quantise_literals():
    fmt = FixedPoint(8, 4)
    assert quantise([0.03125, -0.03125, 1.0, 7.9375, 8.0, -8.0, -8.1, 1e300], fmt).tolist() == [
        1, 0, 16, 127, 127, -128, -128, 127,
    ]  # fmt: skip
    assert quantise([5.0, 6.0, 7.9], FixedPoint(8, -2)).tolist() == [1, 2, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_without_a_code_are_refused(bad):
    with pytest.raises(QuantError, match="NaN or infinity"):
        quantise([0.0, bad], FixedPoint(8, 0))


@given(formats, st.data())
def test_every_code_survives_a_round_trip(fmt, data):
    code = data.draw(st.integers(fmt.lo, fmt.hi))
    assert quantise(dequantise(code, fmt.frac), fmt) == code


@pytest.mark.parametrize(
    ("lo", "hi", "bits"),
    [
        (0, 0, 1),
        (-1, 0, 1),
        (0, 1, 2),
        (-2, 1, 2),
        (-3, 1, 3),
        (-128, 127, 8),
        (-129, 0, 9),
        (0, 128, 9),
        (-(2**31), 2**31 - 1, 32),
        (0, 2**31, 33),
    ],
)
def test_signed_bits(lo, hi, bits):
    assert signed_bits(lo, hi) == bits

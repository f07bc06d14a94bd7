# SPDX-License-Identifier: Apache-2.0
"""Formats, averages and weights that stay exact: against brute force."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import FixedPoint, Rounding
from yolo_hw.interop.averages import check_average
from yolo_hw.interop.exact_weights import codes_of_constants, exact_codes
from yolo_hw.interop.placement import common_format
from yolo_hw.intgraph.nodes import AvgPool
from yolo_hw.intgraph.requant import NumericContract
from yolo_hw.quant.plan import ConvCodes

FORMATS = [FixedPoint(bits, frac, signed) for bits in (2, 4, 8) for frac in (-1, 2, 5) for signed in (True, False)]


@pytest.mark.parametrize("pair", itertools.combinations_with_replacement(FORMATS, 2), ids=str)
def test_a_common_format_holds_all_values_and_is_the_shortest(pair):
    common = common_format(list(pair))
    values = {Fraction(code) * Fraction(2) ** -fmt.frac for fmt in pair for code in (fmt.lo, fmt.hi, fmt.hi - 1)}

    def holds(fmt):
        codes = [value * Fraction(2) ** fmt.frac for value in values]
        return all(code.denominator == 1 and fmt.lo <= code <= fmt.hi for code in codes)

    assert holds(common)
    assert common.bits == 2 or not any(
        holds(FixedPoint(common.bits - 1, common.frac, signed)) for signed in (True, False)
    )


def test_formats_too_far_apart_have_none():
    assert common_format([FixedPoint(8, 0), FixedPoint(8, 9)]) is None
    assert common_format([FixedPoint(8, 0), FixedPoint(8, 8)]) == FixedPoint(16, 8)


@pytest.mark.parametrize("count", [4, 6, 9, 25, 49])
@pytest.mark.parametrize("y_frac", [0, 2, 4, 7])
@pytest.mark.parametrize("rounding", [Rounding.HALF_EVEN, Rounding.FLOOR])
def test_the_check_of_averages_agrees_with_fractions(count, y_frac, rounding):
    x, y, contract = FixedPoint(5, 3), FixedPoint(9, y_frac), NumericContract(rounding)
    mul, shift = AvgPool.reciprocal(count)
    rule = round if rounding is Rounding.HALF_EVEN else (lambda value: value.__floor__())
    wrong = 0
    for total in range(x.lo * count, x.hi * count + 1):
        scale = Fraction(2) ** (y.frac - x.frac)
        ours, exact = rule(total * Fraction(mul, 1 << shift) * scale), rule(Fraction(total, count) * scale)
        wrong += min(max(ours, y.lo), y.hi) != min(max(exact, y.lo), y.hi)
    if not wrong:
        check_average("mean", count, (x, y), contract)
    else:
        with pytest.raises(QuantError, match=rf"for {wrong} of {(x.hi - x.lo) * count + 1} sums"):
            check_average("mean", count, (x, y), contract)


def weights(codes, frac, bits=4):
    return ConvCodes(np.array(codes).reshape(-1, 1, 1, 1), np.array(frac), np.zeros(len(codes), np.int64), bits)


def test_a_fine_bias_shifts_the_weights_of_its_channel():
    found = exact_codes("conv", weights([3, -5, 0], [4, 4, 4]), np.array([0.5, 2.0**-9, -(2.0**-20)]), FixedPoint(8, 3))
    np.testing.assert_array_equal(found.weight.reshape(-1), [3, -20, 0])
    np.testing.assert_array_equal(found.w_frac, [4, 6, 17])
    np.testing.assert_array_equal(found.bias, [1 << 6, 1, -1])
    assert found.w_bits == 6


def test_a_bias_that_is_too_fine_or_too_large_is_refused():
    with pytest.raises(QuantError, match=r"conv: the bias must be a multiple of .* 2\*\*-7 in channel 0, got 0.1"):
        exact_codes("conv", weights([3], [4]), np.array([0.1]), FixedPoint(8, 3))
    with pytest.raises(QuantError, match="the bias must fit 32 bits, channel 0 is"):
        exact_codes("conv", weights([3], [4]), np.array([2.0**24]), FixedPoint(8, 3))


def test_constants_get_the_shortest_codes():
    found = codes_of_constants("pool", np.array([[0.25, 0.25], [0.0, 0.0], [-6.0, 4.0]]))
    np.testing.assert_array_equal(found.weight, [[1, 1], [0, 0], [-3, 2]])
    np.testing.assert_array_equal(found.w_frac, [2, 0, -1])
    assert found.w_bits == 3
    with pytest.raises(QuantError, match="pool: has float weights"):
        codes_of_constants("pool", np.array([[1 / 3]]))

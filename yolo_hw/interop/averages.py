# SPDX-License-Identifier: Apache-2.0
"""Averages: where an integer reciprocal gives the codes that a division gives."""

from __future__ import annotations

import numpy as np

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import FixedPoint, IntArray, Rounding
from yolo_hw.intgraph.nodes import AvgPool
from yolo_hw.intgraph.requant import NumericContract, Requant

_CHUNK = 1 << 20
"""Sums compared at a time."""


def check_average(name: str, count: int, formats: tuple[FixedPoint, FixedPoint], contract: NumericContract) -> None:
    """Check for every sum of `count` codes that the average pool of the integer graph rounds like a division.

    Args:
        name: The node, for the error.
        count: Elements averaged.
        formats: Of the elements and of the average.
        contract: Rounding and overflow; half to even or floor.

    Raises:
        QuantError: Some sum gives another code; says how many do.
    """
    x, y = formats
    mul, mul_shift = AvgPool.reciprocal(count)
    shift = np.array([x.frac + mul_shift - y.frac], np.int64)
    requant = Requant(shift, y, y.lo, y.hi, mul_pos=mul, mul_neg=mul)
    lo, hi = x.lo * count, x.hi * count
    wrong = 0
    for start in range(lo, hi + 1, _CHUNK):
        sums = np.arange(start, min(start + _CHUNK, hi + 1), dtype=np.int64).reshape(1, 1, -1)
        exact = np.zeros(1, np.int64)
        divided = Requant(exact, y, y.lo, y.hi).apply(
            _divided(sums, count, y.frac - x.frac, contract.rounding), contract
        )
        wrong += int((requant.apply(sums, contract) != divided).sum())
    if wrong:
        raise QuantError(
            f"{name}: the average over {count} elements multiplies by {mul} / 2**{mul_shift}, which from {x} to {y} "
            f"gives another code than the division for {wrong} of {hi - lo + 1} sums; use a window of a power of two "
            "elements, or another output format"
        )


def _divided(sums: IntArray, count: int, shift: int, rounding: Rounding) -> IntArray:
    """Return ``round(sums * 2**shift / count)`` in integers."""
    numerator, denominator = sums << max(shift, 0), count << max(-shift, 0)
    quotient, rest = np.divmod(numerator, denominator)
    if rounding is Rounding.FLOOR:
        return np.asarray(quotient, np.int64)
    up = (2 * rest > denominator) | ((2 * rest == denominator) & (quotient % 2 == 1))
    return np.asarray(quotient + up, np.int64)

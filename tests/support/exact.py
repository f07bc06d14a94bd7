# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of docs/numerics.md once more, in Python's unlimited integers and fractions: slow and obvious."""

from __future__ import annotations

import math
from fractions import Fraction

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.intgraph import NumericContract
from yolo_hw.intgraph.requant import Requant

HALF = Fraction(1, 2)


def exact_round(x: Fraction, mode: Rounding) -> int:
    """Round a fraction to an integer."""
    if mode is Rounding.FLOOR:
        return math.floor(x)
    if mode is Rounding.HALF_UP:
        return math.floor(x + HALF)
    if mode is Rounding.HALF_EVEN:
        return round(x)
    return math.floor(x + HALF) if x >= 0 else -math.floor(-x + HALF)


def exact_overflow(v: int, fmt: FixedPoint, mode: Overflow) -> int:
    """Bring an integer into a format."""
    low = -(2 ** (fmt.bits - 1)) if fmt.signed else 0
    high = low + 2**fmt.bits - 1
    if mode is Overflow.WRAP:
        return (v - low) % 2**fmt.bits + low
    if mode is Overflow.SATURATE_SYMMETRIC and fmt.signed:
        low = -high
    return min(max(v, low), high)


def exact_requant(acc: int, channel: int, requant: Requant, contract: NumericContract) -> int:
    """Turn one accumulator into an output code."""
    mul, extra = (requant.mul_neg, requant.shift_neg) if acc < 0 else (requant.mul_pos, 0)
    shift = int(requant.shift[channel if len(requant.shift) > 1 else 0]) + extra
    scaled = Fraction(acc * mul) * Fraction(2) ** -shift
    code = exact_overflow(exact_round(scaled, contract.rounding), requant.code, contract.overflow)
    if requant.table is not None:
        low = -(2 ** (requant.code.bits - 1)) if requant.code.signed else 0
        return int(requant.table[code - low])
    return min(max(code, requant.clamp_lo), requant.clamp_hi)

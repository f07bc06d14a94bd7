# SPDX-License-Identifier: Apache-2.0
"""From accumulators to output codes: the one formula every computing node ends with.

``docs/numerics.md`` section 3; the C++ twin is ``csrc/core/requant.h``::

    v    = acc * (mul_neg if acc < 0 else mul_pos)
    t    = round_shift(v, shift[k] + (shift_neg if acc < 0 else 0))
    code = overflow(t, format)
    y    = table[code - format.lo]            if there is a table
           clamp(code, clamp_lo, clamp_hi)    otherwise
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yolo_hw.fixedpoint import FixedPoint, IntArray, Overflow, Rounding, overflow, round_shift

WIDE_BITS = 64
"""Word length of ``acc * mul`` in every implementation."""


@dataclass(frozen=True)
class NumericContract:
    """What all nodes of a graph share: rounding, overflow and the accumulator's width.

    Attributes:
        rounding: Rounding of every right shift.
        overflow: What happens to codes outside their format.
        acc_bits: Accumulators must provably fit this many bits (32 or 48).
        min_shift: Smallest legal output shift; negative shifts are exact left shifts.
        max_shift: Largest legal output shift, the extra shift of leaky included.
    """

    rounding: Rounding = Rounding.HALF_UP
    overflow: Overflow = Overflow.SATURATE
    acc_bits: int = 32
    min_shift: int = -16
    max_shift: int = 47


@dataclass(frozen=True, eq=False)
class Requant:
    """Parameters of the formula above.

    Attributes:
        shift: [K] or [1] output shift per channel.
        code: Format of the code before table or clamp.
        clamp_lo: Smallest output code.
        clamp_hi: Largest output code.
        mul_pos: Factor of accumulators >= 0.
        mul_neg: Factor of accumulators < 0.
        shift_neg: Added to the shift of accumulators < 0.
        table: [2**code.bits] output code per input code, lowest first, or None.
    """

    shift: IntArray
    code: FixedPoint
    clamp_lo: int
    clamp_hi: int
    mul_pos: int = 1
    mul_neg: int = 1
    shift_neg: int = 0
    table: IntArray | None = None

    def apply(self, acc: IntArray, contract: NumericContract) -> IntArray:
        """Turn accumulators [K, H, W] into output codes [K, H, W]."""
        negative = acc < 0
        product = acc * np.where(negative, self.mul_neg, self.mul_pos)
        shift = self.shift.reshape(-1, 1, 1) + np.where(negative, self.shift_neg, 0)
        code = overflow(round_shift(product, shift, contract.rounding), self.code, contract.overflow)
        if self.table is not None:
            return np.asarray(self.table[code - self.code.lo], np.int64)
        return np.asarray(np.clip(code, self.clamp_lo, self.clamp_hi), np.int64)

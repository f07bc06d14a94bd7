# SPDX-License-Identifier: Apache-2.0
"""Fake quantisation with power-of-two steps, in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding


def round_real(x: Tensor, mode: Rounding = Rounding.HALF_UP) -> Tensor:
    """Round to integers with the rule of a right shift: [...] to [...], same dtype, exact for every finite value."""
    base = torch.floor(x)
    if mode is Rounding.FLOOR:
        return base
    rest = x - base
    up = rest > 0.5
    tie = rest == 0.5
    if mode is Rounding.HALF_UP:
        up = up | tie
    elif mode is Rounding.HALF_EVEN:
        up = up | (tie & (torch.remainder(base, 2) != 0))
    else:
        up = up | (tie & (x >= 0))
    return base + up


def quantise_codes(
    x: Tensor, fmt: FixedPoint, rounding: Rounding = Rounding.HALF_UP, overflow: Overflow = Overflow.SATURATE
) -> Tensor:
    """Return the codes ``overflow(round(x * 2**frac))`` as floating point, [...] to [...], dtype of `x`."""
    codes = round_real(torch.ldexp(x, torch.tensor(fmt.frac)), rounding)
    if overflow is Overflow.WRAP:
        return torch.remainder(codes - fmt.lo, float(1 << fmt.bits)) + fmt.lo
    lo = -fmt.hi if overflow is Overflow.SATURATE_SYMMETRIC and fmt.signed else fmt.lo
    return codes.clamp(lo, fmt.hi)


def fake_quant_pow2(
    x: Tensor, fmt: FixedPoint, rounding: Rounding = Rounding.HALF_UP, overflow: Overflow = Overflow.SATURATE
) -> Tensor:
    r"""Round real numbers to the grid of a fixed-point format, in floating point.

    .. math:: y = 2^{-f} \cdot \mathrm{overflow}(\mathrm{round}(x \, 2^{f}))

    Args:
        x: [...], floating point.
        fmt: Word length, fraction bits f and sign.
        rounding: Rule of the datapath (docs/numerics.md, section 2).
        overflow: What happens outside the format.

    Returns:
        [...], dtype of `x`.
    """
    return torch.ldexp(quantise_codes(x, fmt, rounding, overflow), torch.tensor(-fmt.frac))

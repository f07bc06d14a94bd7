# SPDX-License-Identifier: Apache-2.0
"""The operators in plain torch: slow, obvious, and what the compiled ones are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding


def round_real(x: Tensor, mode: Rounding = Rounding.HALF_UP) -> Tensor:
    """Round to integers with the rule of a right shift: [...] to [...], same dtype, exact for every finite value."""
    base = torch.floor(x)
    if mode is Rounding.FLOOR:
        return base
    part = x - torch.trunc(x)  # exact, the sign of x; x - base is not: -0.49999999999999994 would give 0.5
    up = (part > 0.5) | ((part < 0) & (part > -0.5))
    tie = part.abs() == 0.5
    if mode is Rounding.HALF_UP:
        up = up | tie
    elif mode is Rounding.HALF_EVEN:
        up = up | (tie & (torch.remainder(base, 2) != 0))
    else:
        up = up | (tie & (x >= 0))
    return base + up


def fake_quant_pow2(
    x: Tensor,
    fmt: FixedPoint,
    rounding: Rounding = Rounding.HALF_UP,
    overflow: Overflow = Overflow.SATURATE,
    *,
    frac: Tensor | None = None,
    axis: int = 0,
) -> Tensor:
    """The values of `yolo_hw.ops.fake_quant_pow2`, same arguments; no gradient."""
    codes = round_real(_scaled(x, fmt, frac, axis), rounding)
    if overflow is Overflow.WRAP:
        low_bits = torch.remainder(codes, float(1 << fmt.bits))
        codes = torch.where(low_bits > fmt.hi, low_bits - float(1 << fmt.bits), low_bits)
    else:
        codes = codes.clamp(_lowest(fmt, overflow), fmt.hi)
    return torch.ldexp(codes + 0.0, -_fractions(x, fmt, frac, axis))  # an integer has no -0


def fake_quant_pow2_backward(
    grad: Tensor,
    x: Tensor,
    fmt: FixedPoint,
    rounding: Rounding = Rounding.HALF_UP,
    overflow: Overflow = Overflow.SATURATE,
    *,
    frac: Tensor | None = None,
    axis: int = 0,
) -> Tensor:
    """The straight-through gradient of `yolo_hw.ops.fake_quant_pow2`: [...] to [...]."""
    if overflow is Overflow.WRAP:
        return grad.clone()
    codes = round_real(_scaled(x, fmt, frac, axis), rounding)
    inside = (codes >= _lowest(fmt, overflow)) & (codes <= fmt.hi)
    return torch.where(inside, grad, torch.zeros_like(grad))


def _lowest(fmt: FixedPoint, overflow: Overflow) -> int:
    return -fmt.hi if overflow is Overflow.SATURATE_SYMMETRIC and fmt.signed else fmt.lo


def _scaled(x: Tensor, fmt: FixedPoint, frac: Tensor | None, axis: int) -> Tensor:
    return torch.ldexp(x, _fractions(x, fmt, frac, axis))


def _fractions(x: Tensor, fmt: FixedPoint, frac: Tensor | None, axis: int) -> Tensor:
    """Fraction bits that broadcast against `x`."""
    if frac is None:
        return torch.tensor(fmt.frac)
    if frac.numel() == 1:
        return frac.reshape(())
    return frac.reshape([-1 if d == axis % x.dim() else 1 for d in range(x.dim())])

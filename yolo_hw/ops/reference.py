# SPDX-License-Identifier: Apache-2.0
"""The operators in plain torch: slow, obvious, and what the compiled ones are tested against."""

from __future__ import annotations

from typing import Any

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
    return _broadcast(frac, x, axis)


def fake_quant_tqt(
    x: Tensor, log2_t: Tensor, fmt: FixedPoint, rounding: Rounding = Rounding.HALF_UP, *, axis: int = 0
) -> Tensor:
    """The values of `yolo_hw.ops.fake_quant_tqt` with the bits and sign of `fmt`; the gradient is autograd's.

    The paper's own form (Jain et al. 2020): the gradient of rounding is 1, of ``ceil`` 1, of the clip its mask after
    rounding.
    """
    step = 2.0 ** _straight(log2_t, torch.ceil(log2_t)) / 2.0 ** (fmt.bits - fmt.signed)
    step = _broadcast(step, x, axis)
    codes = _straight(x / step, round_real(x / step, rounding))
    return codes.clamp(fmt.lo, fmt.hi) * step


def fake_quant_lsq(x: Tensor, scale: Tensor, fmt: FixedPoint, grad_scale: float, *, axis: int = 0) -> Tensor:
    """The values of `yolo_hw.ops.fake_quant_lsq` with the bits and sign of `fmt`; the gradient is autograd's.

    The paper's pseudocode (Esser et al. 2020, appendix A): scale the gradient of the step, clip, then round.
    """
    scaled = scale * grad_scale
    step = _straight(scaled, torch.exp2(torch.round(torch.log2(scale))))
    step = _broadcast(step, x, axis)
    clipped = (x / step).clamp(fmt.lo, fmt.hi)
    return _straight(clipped, round_real(clipped)) * step


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, through: Tensor, value: Tensor) -> Tensor:  # noqa: ANN401 - torch has no type for it
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return grad, None


def _straight(through: Tensor, value: Tensor) -> Tensor:
    """`value`, with the gradient of `through`."""
    straight: Tensor = _Straight.apply(through, value)  # type: ignore[no-untyped-call]
    return straight


def _broadcast(values: Tensor, x: Tensor, axis: int) -> Tensor:
    if values.numel() == 1:
        return values.reshape(())
    return values.reshape([-1 if d == axis % x.dim() else 1 for d in range(x.dim())])

# SPDX-License-Identifier: Apache-2.0
"""Fake quantisation with power-of-two steps; the kernels are ``csrc/{cpu,cuda}/fake_quant_pow2``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.ops._library import load_library

load_library()


def fake_quant_pow2(
    x: Tensor,
    fmt: FixedPoint,
    rounding: Rounding = Rounding.HALF_UP,
    overflow: Overflow = Overflow.SATURATE,
    *,
    frac: Tensor | None = None,
    axis: int = 0,
) -> Tensor:
    r"""Round real numbers to the grid of a fixed-point format, in floating point.

    .. math:: y = 2^{-f} \cdot \mathrm{overflow}(\mathrm{round}(x \, 2^{f}))

    The gradient is straight-through: it passes where the overflow leaves the rounded value unchanged, and is zero
    where it does not; with ``Overflow.WRAP`` it passes everywhere. NaN gives NaN. Infinity saturates, and gives NaN
    with ``Overflow.WRAP``, as it has no low bits.

    Args:
        x: [...], float32 or float64. The scaled values ``x * 2**f`` are formed in this dtype; one that underflows
            there counts as zero.
        fmt: Word length, fraction bits f and sign.
        rounding: Rule of the datapath (docs/numerics.md, section 2).
        overflow: What happens outside the format.
        frac: [1] or [x.shape[axis]], int32, on the device of `x`: fraction bits that replace those of `fmt`, in
            [-64, 64]. The values are checked on the CPU only.
        axis: The dimension of `x` that `frac` belongs to.

    Returns:
        [...], dtype of `x`, contiguous.
    """
    if frac is None:
        frac = torch.full((1,), fmt.frac, dtype=torch.int32, device=x.device)
    if axis < 0:
        axis += x.dim()
    y: Tensor = torch.ops.yolo_hw.fake_quant_pow2(x, frac, axis, fmt.bits, fmt.signed, rounding.number, overflow.number)
    return y


def quantise_codes(
    x: Tensor, fmt: FixedPoint, rounding: Rounding = Rounding.HALF_UP, overflow: Overflow = Overflow.SATURATE
) -> Tensor:
    """Return the codes ``overflow(round(x * 2**frac))`` as floating point, [...] to [...], dtype of `x`."""
    return torch.ldexp(fake_quant_pow2(x, fmt, rounding, overflow), torch.tensor(fmt.frac))


def _fake(x: Tensor, frac: Tensor, *args: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake_backward(grad: Tensor, x: Tensor, frac: Tensor, *args: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401 - torch has no type for it
    x, frac, *ctx.format = inputs
    ctx.save_for_backward(x, frac)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    x, frac = ctx.saved_tensors
    return (torch.ops.yolo_hw.fake_quant_pow2_backward(grad, x, frac, *ctx.format), *[None] * (1 + len(ctx.format)))


torch.library.register_fake("yolo_hw::fake_quant_pow2", _fake)
torch.library.register_fake("yolo_hw::fake_quant_pow2_backward", _fake_backward)
torch.library.register_autograd("yolo_hw::fake_quant_pow2", _backward, setup_context=_setup_context)

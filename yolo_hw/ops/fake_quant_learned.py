# SPDX-License-Identifier: Apache-2.0
"""Fake quantisation whose power-of-two step is trained; the kernels are those of `fake_quant_pow2`."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from yolo_hw.fixedpoint import MAX_BITS, MIN_BITS, Overflow, Rounding
from yolo_hw.ops._gradient import refuse_gradient
from yolo_hw.ops._lean_call import is_compiling, is_grad_enabled, lean, pack_format, transforms_active
from yolo_hw.ops._library import load_library

load_library()
_op = torch.ops.yolo_hw.fake_quant_learned.default
_op_out = torch.ops.yolo_hw.fake_quant_learned.out
_kernel: Callable[..., Tensor] = lean(torch.ops.yolo_hw._fake_quant_learned.default)
_backward_op = torch.ops.yolo_hw.fake_quant_learned_backward.default
_backward_kernel = lean(torch.ops.yolo_hw._fake_quant_learned_backward.default)


_Args = tuple[int, int, bool, int, int, int]
"""axis, bits, signed, rounding, overflow, gradient."""


class _StepGradient(IntEnum):
    """StepGradient of csrc/core/learned_step.h."""

    TQT = 0
    LSQ = 1


def fake_quant_tqt(
    x: Tensor,
    log2_t: Tensor,
    bits: int = 8,
    signed: bool = True,
    rounding: Rounding = Rounding.HALF_UP,
    *,
    overflow: Overflow = Overflow.SATURATE,
    axis: int = 0,
    out: Tensor | None = None,
) -> Tensor:
    r"""Fake quantisation with a trained threshold: TQT.

    The step is :math:`s = 2^{\lceil \log_2 t \rceil} / 2^{b - \mathrm{signed}}`, so the fraction bits are
    ``bits - signed - ceil(log2_t)``, and :math:`y = s \cdot \mathrm{clip}(\mathrm{round}(x / s), n, p)`. With
    :math:`r = \mathrm{round}(x / s)` the gradients are

    .. math::
        \partial y / \partial x &= [n \le r \le p] \\
        \partial y / \partial \log_2 t &= s \ln 2 \cdot
            (r - x/s \text{ where } n \le r \le p;\; n \text{ below};\; p \text{ above})

    Source: Jain et al., "Trained Quantization Thresholds for Accurate and Efficient Fixed-Point Inference of Deep
    Neural Networks", MLSys 2020, equations 4 to 8. The threshold's gradient is a sum in a fixed order: the same bits
    for every number of threads and every instruction set.

    Args:
        x: [...], float32, float64, float16 or bfloat16, any strides.
        log2_t: [1] or [x.shape[axis]], float32 or float64, on the device of `x`; the fraction bits must come out in
            [-64, 64], which is checked on the CPU only.
        bits: Word length in [2, 16], sign included.
        signed: Two's complement, else codes start at 0.
        rounding: Rule of the datapath.
        overflow: ``SATURATE``, or ``SATURATE_SYMMETRIC`` for the narrow range.
        axis: The dimension of `x` that `log2_t` belongs to.
        out: Where to write the result, as in `fake_quant_pow2`; no gradient then.

    Returns:
        [...], dtype and memory format of `x`; `out` if given.

    Raises:
        RuntimeError: An argument is not as above.
    """
    axis += x.dim() if axis < 0 else 0
    args = (axis, bits, signed, rounding.number, overflow.number, _StepGradient.TQT)
    return _call(x, log2_t, args, 1.0, out)


def fake_quant_lsq(
    x: Tensor,
    scale: Tensor,
    bits: int = 8,
    signed: bool = True,
    rounding: Rounding = Rounding.HALF_UP,
    *,
    overflow: Overflow = Overflow.SATURATE,
    axis: int = 0,
    grad_scale: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    r"""Fake quantisation with a trained step: LSQ on power-of-two steps.

    The step is the power of two nearest to `scale` in the logarithm, :math:`s = 2^{\mathrm{round}(\log_2 scale)}`,
    through which the gradient goes straight. With :math:`v = x / s` and the codes from :math:`-Q_N` to :math:`Q_P`,

    .. math::
        \partial y / \partial x &= [-Q_N < v < Q_P] \\
        \partial y / \partial scale &= g \cdot
            (\mathrm{round}(v) - v \text{ where } -Q_N < v < Q_P;\; -Q_N \text{ below};\; Q_P \text{ above})

    Source: Esser et al., "Learned Step Size Quantization", ICLR 2020, equations 3 to 5 and section 2.2 for g. The sum
    has a fixed order, as in `fake_quant_tqt`.

    Args:
        x: [...], float32, float64, float16 or bfloat16, any strides.
        scale: [1] or [x.shape[axis]], float32 or float64, positive, on the device of `x`.
        bits: Word length in [2, 16], sign included.
        signed: Two's complement, else codes start at 0.
        rounding: Rule of the datapath.
        overflow: ``SATURATE``, or ``SATURATE_SYMMETRIC`` for the narrow range.
        axis: The dimension of `x` that `scale` belongs to.
        grad_scale: g; by default the paper's ``1 / sqrt(N * Q_P)`` with the N elements that share a step.
        out: Where to write the result, as in `fake_quant_pow2`; no gradient then.

    Returns:
        [...], dtype and memory format of `x`; `out` if given.

    Raises:
        RuntimeError: An argument is not as above.
    """
    axis += x.dim() if axis < 0 else 0
    if grad_scale is None:
        grad_scale = 1 / math.sqrt(max(1, x.numel() // max(1, scale.numel())) * (2 ** (bits - signed) - 1))
    args = (axis, bits, signed, rounding.number, overflow.number, _StepGradient.LSQ)
    return _call(x, scale, args, grad_scale, out)


def _call(x: Tensor, parameter: Tensor, args: _Args, grad_scale: float, out: Tensor | None) -> Tensor:
    if out is not None:
        refuse_gradient("fake_quant_tqt" if args[-1] == _StepGradient.TQT else "fake_quant_lsq", x, parameter, out)
        _op_out(x, parameter, *args, out=out)
        return out
    # Another number of bits has no packed form; the operator refuses it.
    if is_compiling() or transforms_active() or not MIN_BITS <= args[1] <= MAX_BITS:
        y: Tensor = _op(x, parameter, *args, grad_scale)
        return y
    packed = pack_format(*args[:-1]) + args[-1]
    if is_grad_enabled() and (x.requires_grad or parameter.requires_grad):
        return _record(x, parameter, packed, grad_scale)
    return _kernel(x, parameter, packed)


class _Learned(Function):
    """The gradient in eager mode: the formula of the operator, with less between autograd and the kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parameter: Tensor, packed: int, grad_scale: float) -> Tensor:  # noqa: ANN401 - torch has no type for it
        ctx.save_for_backward(x, parameter)
        ctx.rest = packed, grad_scale
        return _kernel(x, parameter, packed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return _differentiable_once(ctx, grad) if is_grad_enabled() else _first_gradient(ctx, grad)


def _first_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    return (*_backward_kernel(grad, *ctx.saved_tensors, *ctx.rest), None, None)


_differentiable_once = torch.autograd.function.once_differentiable(_first_gradient)
_record: Callable[..., Tensor] = super(Function, _Learned).apply  # as in fake_quant_pow2


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    x, parameter, *ctx.rest = inputs
    ctx.save_for_backward(x, parameter)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    return (*_backward_op(grad, *ctx.saved_tensors, *ctx.rest), *[None] * 7)


def _fake(x: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
    return torch.empty_like(x)


def _fake_backward(grad: Tensor, x: Tensor, parameter: Tensor, *args: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    return torch.empty_like(x), torch.empty_like(parameter)


def _register() -> None:
    for name in ("fake_quant_learned", "_fake_quant_learned"):
        torch.library.register_fake(f"yolo_hw::{name}", _fake)
        torch.library.register_fake(f"yolo_hw::{name}_backward", _fake_backward)
    torch.library.register_fake("yolo_hw::fake_quant_learned.out", lambda *args, out: None)
    torch.library.register_fake("yolo_hw::fake_quant_learned_backward.out", lambda *args, grad_x, grad_parameter: None)
    torch.library.register_autograd("yolo_hw::fake_quant_learned", _backward, setup_context=_setup_context)


_register()

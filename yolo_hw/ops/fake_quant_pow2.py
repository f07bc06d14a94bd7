# SPDX-License-Identifier: Apache-2.0
"""Fake quantisation with power-of-two steps; the kernels are ``csrc/{cpu,cuda}/fake_quant_pow2``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.ops._gradient import needs_gradient, refuse_gradient
from yolo_hw.ops._lean_call import (
    is_compiling,
    is_grad_enabled,
    lean,
    pack_format,
    transforms_active,
    unpack_format,
)
from yolo_hw.ops._library import load_library

load_library()
_op = torch.ops.yolo_hw.fake_quant_pow2.default
_op_out = torch.ops.yolo_hw.fake_quant_pow2.out
_kernel: Callable[..., Tensor] = lean(torch.ops.yolo_hw._fake_quant_pow2.default)
_backward_op = torch.ops.yolo_hw.fake_quant_pow2_backward.default
_backward_kernel = lean(torch.ops.yolo_hw._fake_quant_pow2_backward.default)


def fake_quant_pow2(
    x: Tensor,
    fmt: FixedPoint,
    rounding: Rounding = Rounding.HALF_UP,
    overflow: Overflow = Overflow.SATURATE,
    *,
    frac: Tensor | None = None,
    axis: int = 0,
    out: Tensor | None = None,
) -> Tensor:
    r"""Round real numbers to the grid of a fixed-point format, in floating point.

    .. math:: y = 2^{-f} \cdot \mathrm{overflow}(\mathrm{round}(x \, 2^{f}))

    The gradient is straight-through: it passes where the overflow leaves the rounded value unchanged, and is zero
    where it does not; with ``Overflow.WRAP`` it passes everywhere. torch.vmap works over `x`; torch.func.grad does not
    take operators of libraries. NaN gives NaN. Infinity saturates, and gives NaN
    with ``Overflow.WRAP``, as it has no low bits.

    float32 and float64 results are exact. float16 and bfloat16 are computed in float32 and the result is rounded to
    the type, to nearest even: exact for formats up to 8 (bfloat16) and 11 (float16) magnitude bits whose values are
    in the type's range. Under autocast the operator runs in the dtype of its input.

    Args:
        x: [...], float32, float64, float16 or bfloat16, any strides. The scaled values ``x * 2**f`` are formed in
            this dtype (float32 for the 16-bit types); one that underflows there counts as zero.
        fmt: Word length, fraction bits f and sign.
        rounding: Rule of the datapath (docs/numerics.md, section 2).
        overflow: What happens outside the format; ``SATURATE_SYMMETRIC`` is the narrow range.
        frac: [1] or [x.shape[axis]], int32, on the device of `x`: fraction bits that replace those of `fmt`, in
            [-64, 64]. The values are checked on the CPU only.
        axis: The dimension of `x` that `frac` belongs to.
        out: [...], dtype and device of `x`, dense: where to write the result; may be `x`. No gradient then.

    Returns:
        [...], dtype and memory format of `x`; `out` if given.

    Raises:
        RuntimeError: An argument is not as above.
    """
    if axis < 0:
        axis += x.dim()
    if out is not None:
        refuse_gradient("fake_quant_pow2", x, out)
        _op_out(x, fmt.frac, frac, axis, fmt.bits, fmt.signed, rounding.number, overflow.number, out=out)
        return out
    if is_compiling() or transforms_active():
        y: Tensor = _op(x, fmt.frac, frac, axis, fmt.bits, fmt.signed, rounding.number, overflow.number)
        return y
    packed = pack_format(axis, fmt.bits, fmt.signed, rounding.number, overflow.number) + fmt.frac
    return _record(x, frac, packed) if x.requires_grad and is_grad_enabled() else _kernel(x, frac, packed)


def fake_quant_pow2_many(
    xs: Sequence[Tensor],
    fmt: FixedPoint,
    rounding: Rounding = Rounding.HALF_UP,
    overflow: Overflow = Overflow.SATURATE,
    *,
    fracs: Sequence[Tensor] | None = None,
    axis: int = 0,
) -> list[Tensor]:
    """`fake_quant_pow2` of many tensors, such as all weights of a network, in one call; so is their gradient.

    Args:
        xs: Tensors [...], as for `fake_quant_pow2`.
        fmt: Word length, fraction bits and sign, the same for all.
        rounding: Rule of the datapath.
        overflow: What happens outside the format.
        fracs: For each tensor [1] or [x.shape[axis]], int32, in the place of ``fmt.frac``.
        axis: The dimension, from the front, that `fracs` belong to.

    Returns:
        One tensor [...] for each of `xs`.

    Raises:
        RuntimeError: An argument is not as above.
    """
    inputs = list(xs)
    if fracs is None:
        fracs = [torch.full((1,), fmt.frac, dtype=torch.int32, device=x.device) for x in inputs]
    args = (list(fracs), axis, fmt.bits, fmt.signed, rounding.number, overflow.number)
    if needs_gradient(*inputs):
        return list(_Many.apply(*args, *inputs))  # type: ignore[no-untyped-call]
    ys: list[Tensor] = torch.ops.yolo_hw.fake_quant_pow2_many(inputs, *args)
    return ys


def quantise_codes(
    x: Tensor, fmt: FixedPoint, rounding: Rounding = Rounding.HALF_UP, overflow: Overflow = Overflow.SATURATE
) -> Tensor:
    """Return the codes ``overflow(round(x * 2**frac))`` as floating point, [...] to [...], dtype of `x`."""
    return torch.ldexp(fake_quant_pow2(x, fmt, rounding, overflow), torch.tensor(fmt.frac))


class _StraightThrough(Function):
    """The gradient in eager mode: the formula of the operator, with less between autograd and the kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, fracs: Tensor | None, packed: int) -> Tensor:  # noqa: ANN401 - torch has no type for it
        ctx.save_for_backward(x, fracs)
        ctx.packed = packed
        return _kernel(x, fracs, packed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, fracs = ctx.saved_tensors
        if is_grad_enabled():  # a double backward needs the operator with a formula
            frac, *args = unpack_format(ctx.packed)
            return _backward_op(grad, x, frac, fracs, *args), None, None
        return _backward_kernel(grad, x, fracs, ctx.packed), None, None


# Function.apply without its look at torch.func, whose transforms go to the operator.
_record: Callable[..., Tensor] = super(Function, _StraightThrough).apply


class _Many(Function):
    """The gradient of the many-tensor form."""

    @staticmethod
    def forward(ctx: Any, fracs: list[Tensor], *args: Any) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.rest, xs = args[:5], args[5:]
        ctx.count = len(xs)
        ctx.save_for_backward(*xs, *fracs)
        ctx.set_materialize_grads(True)
        return tuple(torch.ops.yolo_hw.fake_quant_pow2_many(list(xs), fracs, *ctx.rest))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        xs, fracs = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        return (*[None] * 6, *torch.ops.yolo_hw.fake_quant_pow2_many_backward(grads, xs, fracs, *ctx.rest))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    x, ctx.frac, fracs, *ctx.rest = inputs
    ctx.save_for_backward(x, fracs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    x, fracs = ctx.saved_tensors
    return (_backward_op(grad, x, ctx.frac, fracs, *ctx.rest), *[None] * 7)


def _setup_backward_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    _setup_context(ctx, inputs[1:], output)


def _double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    """The gradient is linear in the incoming one and constant in x almost everywhere."""
    x, fracs = ctx.saved_tensors
    return (_backward_op(grad, x, ctx.frac, fracs, *ctx.rest), *[None] * 8)


def _batched(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:  # noqa: ANN401
    """Map over tensors of one shape: the batch becomes the first dimension, the axis moves by one."""
    tensors = 2 if args[1:2] and isinstance(args[1], Tensor) else 1
    op = _backward_op if tensors == 2 else _op
    frac, fracs, axis, *rest = args[tensors:]
    if fracs is not None and in_dims[tensors + 1] is not None:
        raise NotImplementedError("fake_quant_pow2: vmap over frac is not supported, only over x")
    moved = [
        t.movedim(d, 0) if d is not None else t.expand(info.batch_size, *t.shape)
        for t, d in zip(args[:tensors], in_dims[:tensors], strict=True)
    ]
    return op(*moved, frac, fracs, axis + 1, *rest), 0


def _fake(x: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
    return torch.empty_like(x)


def _fake_backward(grad: Tensor, x: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
    return torch.empty_like(x)


def _fake_many(xs: list[Tensor], *args: Any) -> list[Tensor]:  # noqa: ANN401
    return [torch.empty_like(x) for x in xs]


def _fake_many_backward(grads: list[Tensor], xs: list[Tensor], *args: Any) -> list[Tensor]:  # noqa: ANN401
    return [torch.empty_like(x) for x in xs]


def _register() -> None:
    for name in ("fake_quant_pow2", "_fake_quant_pow2"):
        torch.library.register_fake(f"yolo_hw::{name}", _fake)
        torch.library.register_fake(f"yolo_hw::{name}_backward", _fake_backward)
    torch.library.register_fake("yolo_hw::fake_quant_pow2.out", lambda *args, out: None)
    torch.library.register_fake("yolo_hw::fake_quant_pow2_backward.out", lambda *args, out: None)
    torch.library.register_fake("yolo_hw::fake_quant_pow2_many", _fake_many)
    torch.library.register_fake("yolo_hw::fake_quant_pow2_many_backward", _fake_many_backward)
    torch.library.register_autograd("yolo_hw::fake_quant_pow2", _backward, setup_context=_setup_context)
    torch.library.register_autograd(
        "yolo_hw::fake_quant_pow2_backward", _double_backward, setup_context=_setup_backward_context
    )
    for name in ("fake_quant_pow2", "fake_quant_pow2_backward"):
        torch.library.register_vmap(f"yolo_hw::{name}", _batched)


_register()

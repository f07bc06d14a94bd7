# SPDX-License-Identifier: Apache-2.0
"""Convolution with sparse weights; the kernels are ``csrc/sparse`` and ``csrc/cpu/sparse_conv2d.cpp``."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yolo_hw.ops._gradient import refuse_gradient
from yolo_hw.ops._library import load_library
from yolo_hw.ops.sparse_packing import PackedSparse, WeightShape, flat_positions, scatter_dense

load_library()

IntPair = int | Sequence[int]


class Activation(enum.Enum):
    """What is applied to the sums; the number is that of csrc/sparse/conv.h."""

    NONE = 0
    RELU = 1
    RELU6 = 2
    LEAKY = 3


def sparse_conv2d(
    x: Tensor,
    weight: PackedSparse,
    bias: Tensor | None = None,
    *,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    activation: Activation = Activation.NONE,
    slope: float = 0.1,
    out: Tensor | None = None,
) -> Tensor:
    r"""Convolve with the kept weights only.

    .. math:: y = \mathrm{activation}(\mathrm{conv2d}(x, W) + b)

    Every output is the chain of fused multiply-adds over its kept weights in packed order, starting with the bias: the
    bits do not depend on threads, tiling, batch, instruction set or device. Sums of 8-bit codes are exact modulo 2**32.

    The gradients are those of the dense convolution, gathered at the kept weights, at its cost. At its kinks an
    activation has the gradient of its lower side.

    Args:
        x: [N, C, H, W], float32, float64, int8 or uint8; other layouts than contiguous are copied.
        weight: Packed weight [K, C / groups, R, S] on the device of `x`, of its dtype, or int8 for int8 and uint8.
        bias: [K] of the dtype of the result, or none.
        stride: One number, or rows and columns; so are the next two.
        padding: Zeros on each side.
        dilation: Distance between taps.
        groups: As in `torch.nn.functional.conv2d`; block rows must divide K / groups where it is not 1.
        activation: Fused with the last sum; none for int8 and uint8.
        slope: Of `Activation.LEAKY`, at least 0.
        out: Where to write the result, contiguous. No gradient then.

    Returns:
        [N, K, OH, OW], contiguous; of the dtype of `x`, or int32 for int8 and uint8. The latter has no gradient.

    Raises:
        ValueError, RuntimeError: An argument does not fit.
    """
    if x.dim() == 4 and x.shape[1] != (channels := weight.shape.channels * groups):
        raise ValueError(f"sparse_conv2d: x must have {channels} channels, got {x.shape[1]}")
    if slope < 0:
        raise ValueError(f"sparse_conv2d: slope must be at least 0, got {slope}")
    window = (pair(stride), pair(padding), pair(dilation))
    size = (weight.shape.out_channels, weight.shape[2:], weight.chunk)
    packed = (weight.values, weight.taps, weight.starts)
    arguments = (*packed, bias, *size, *window, groups, activation.value, slope)
    if out is not None:
        refuse_gradient("sparse_conv2d", x, weight.values, out)
        torch.ops.yolo_hw.sparse_conv2d.out(x, *arguments, out=out)
        return out
    y: Tensor = torch.ops.yolo_hw.sparse_conv2d(x, *arguments)
    return y


def pair(value: IntPair) -> list[int]:
    """Return one number or two as a list of two."""
    return [value, value] if isinstance(value, int) else [*value]


def _fake(x: Tensor, *args: Any) -> Tensor:  # noqa: ANN401 - the rest of the schema
    _, _, _, _, out_channels, kernel, _, stride, padding, dilation, *_ = args
    size = [(x.shape[2 + d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d in range(2)]
    dtype = x.dtype if x.is_floating_point() else torch.int32
    return x.new_empty((x.shape[0], out_channels, *size), dtype=dtype)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401 - torch has no type for it
    x, values, taps, starts, bias, *ctx.numbers = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, values, taps, starts, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    x, values, taps, starts, y = ctx.saved_tensors
    out_channels, kernel, chunk, stride, padding, dilation, groups, activation, slope = ctx.numbers
    shape = WeightShape(out_channels, x.shape[1] // groups, *kernel)
    grad = _through_activation(grad, y.detach(), Activation(activation), slope)
    places = flat_positions(taps, starts, shape, chunk, values.shape[1:])
    wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[4]]
    dense = scatter_dense(values, places, shape)
    grad_x, grad_dense, grad_bias = torch.ops.aten.convolution_backward(
        grad, x, dense, [out_channels], stride, padding, dilation, False, [0, 0], groups, wanted
    )
    grad_values = None
    if wanted[1]:
        flat = torch.nn.functional.pad(grad_dense.reshape(-1), (0, 1))  # rows past the last channel have none
        grad_values = flat[places]
    return (grad_x, grad_values, None, None, grad_bias, *[None] * len(ctx.numbers))


def _through_activation(grad: Tensor, y: Tensor, activation: Activation, slope: float) -> Tensor:
    """Return the gradient before the activation; the sign of its argument is that of y."""
    if activation is Activation.NONE:
        return grad
    if activation is Activation.LEAKY:
        return torch.where(y > 0, grad, grad * slope)
    inside = (y > 0) & (y < 6) if activation is Activation.RELU6 else y > 0
    return torch.where(inside, grad, torch.zeros_like(grad))


torch.library.register_fake("yolo_hw::sparse_conv2d", _fake)
torch.library.register_fake("yolo_hw::sparse_conv2d.out", lambda *args, out: None)
torch.library.register_autograd("yolo_hw::sparse_conv2d", _backward, setup_context=_setup_context)

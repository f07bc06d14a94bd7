# SPDX-License-Identifier: Apache-2.0
"""Fake kernels and gradients of the operators ``fold_bn*``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from yolo_hw.ops._library import load_library

load_library()

Tensors = list[Tensor]


def _dense_like(weight: Tensor, transposed_groups: int) -> Tensor:
    """An empty tensor with the order in memory that the kernels give to results shaped like a weight."""
    keeps = weight.dim() == 4 and not transposed_groups and not weight.is_contiguous()
    if keeps and weight.is_contiguous(memory_format=torch.channels_last):
        return torch.empty_like(weight)
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _channels(weight: Tensor, transposed_groups: int) -> int:
    return weight.shape[1] * transposed_groups if transposed_groups else weight.shape[0]


def _folded_like(weight: Tensor, transposed_groups: int) -> tuple[Tensor, Tensor]:
    return _dense_like(weight, transposed_groups), weight.new_empty(_channels(weight, transposed_groups))


def _grads_like(weight: Tensor, vectors: tuple[Tensor, ...], transposed_groups: int) -> tuple[Tensor, ...]:
    return _dense_like(weight, transposed_groups), *(x.new_empty(x.shape) for x in vectors)


def _fake_fold(weight: Tensor, *args: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    return _folded_like(weight, args[-1])


def _fake_fold_backward(grad_w: Tensor, grad_b: Tensor, weight: Tensor, *args: Any) -> tuple[Tensor, ...]:  # noqa: ANN401
    return _grads_like(weight, args[:5], args[-1])


def _fake_layers(weights: Tensors, *args: Any) -> tuple[Tensors, Tensors]:  # noqa: ANN401
    folded = [_folded_like(w, groups) for w, groups in zip(weights, args[7], strict=True)]
    return [w for w, _ in folded], [b for _, b in folded]


def _fake_layers_out(*args: Any) -> None:  # noqa: ANN401
    return None


def _fake_layers_backward(grad_w: Tensors, grad_b: Tensors, weights: Tensors, *args: Any) -> tuple[Tensors, ...]:  # noqa: ANN401
    vectors, groups = zip(*args[:5], strict=True), args[7]
    grads = [_grads_like(w, v, g) for w, v, g in zip(weights, vectors, groups, strict=True)]
    return tuple([layer[i] for layer in grads] for i in range(6))


def _fold_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401
    ctx.save_for_backward(*inputs[:6])
    ctx.rest = inputs[6:]


def _fold_backward(ctx: Any, grad_weight: Tensor, grad_bias: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    return (*torch.ops.yolo_hw.fold_bn_backward(grad_weight, grad_bias, *ctx.saved_tensors, *ctx.rest), None, None)


def _fold_double_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
    ctx.save_for_backward(*inputs[:8])
    ctx.rest = inputs[8:]


def _fold_double_backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    """Gradient of the gradient, in plain torch, so it can be derived again (docs/batch_norm.md, section 2)."""
    grad_weight, grad_bias, weight, bias, gamma, _, mean, var = ctx.saved_tensors
    eps, transposed_groups = ctx.rest
    u_weight, u_bias, u_gamma, u_beta, u_mean, u_var = cotangents
    if gamma.numel() == 0:  # without batch norm the weight and the bias pass unchanged
        through = u_bias if bias.numel() else torch.zeros_like(grad_bias)
        return (u_weight, through, *[torch.zeros_like(x) for x in ctx.saved_tensors[2:]], None, None)

    def wide(vector: Tensor) -> Tensor:
        return _per_weight(vector, weight, transposed_groups)

    def total(x: Tensor) -> Tensor:
        return _per_channel_sum(x, transposed_groups)

    inverse = (var.clamp(min=0) + eps).rsqrt()
    factor = gamma * inverse
    slope = torch.where(var < 0, torch.zeros_like(var), -0.5 * inverse**3)  # derivative of `inverse` to var
    offset = (bias if bias.numel() else 0) - mean
    grad_factor = total(grad_weight * weight) + grad_bias * offset
    u_offset = (u_bias if bias.numel() else 0) - u_mean
    through = u_gamma * inverse + u_var * gamma * slope  # to grad_factor
    to_factor = total(u_weight * grad_weight) + grad_bias * u_offset
    curve = torch.where(var < 0, torch.zeros_like(var), 0.75 * inverse**5)  # derivative of `slope` to var
    to_grad_weight = u_weight * wide(factor) + wide(through) * weight
    to_grad_bias = through * offset + u_offset * factor + u_beta
    to_gamma = to_factor * inverse + u_var * grad_factor * slope
    to_var = (to_factor * gamma + u_gamma * grad_factor) * slope + u_var * grad_factor * gamma * curve
    to_bias = through * grad_bias if bias.numel() else torch.zeros_like(bias)
    to_weight = wide(through) * grad_weight
    return (
        *(to_grad_weight, to_grad_bias, to_weight, to_bias, to_gamma, torch.zeros_like(gamma)),
        *(-through * grad_bias, to_var, None, None),
    )


def _per_weight(vector: Tensor, weight: Tensor, transposed_groups: int) -> Tensor:
    """A [K] vector that broadcasts against, or has the shape of, a weight."""
    ones = [1] * (weight.dim() - 2)
    if not transposed_groups:
        return vector.reshape(-1, 1, *ones)
    rows = weight.shape[0] // transposed_groups
    return vector.reshape(transposed_groups, -1).repeat_interleave(rows, 0).reshape(*weight.shape[:2], *ones)


def _per_channel_sum(x: Tensor, transposed_groups: int) -> Tensor:
    """Sums over everything but output channels: like a weight -> [K]."""
    if not transposed_groups:
        return x.flatten(1).sum(1)
    return x.reshape(transposed_groups, x.shape[0] // transposed_groups, x.shape[1], -1).sum((1, 3)).flatten()


def _layers_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensors, Tensors]) -> None:  # noqa: ANN401
    ctx.save_for_backward(*(x for tensors in inputs[:7] for x in tensors))
    ctx.rest = inputs[7:]


def _layers_backward(ctx: Any, grad_weights: Tensors, grad_biases: Tensors) -> tuple[Any, ...]:  # noqa: ANN401
    count = len(grad_weights)
    lists = [list(ctx.saved_tensors[i : i + count]) for i in range(0, 7 * count, count)]
    grads = torch.ops.yolo_hw.fold_bn_fake_quant_backward(list(grad_weights), list(grad_biases), *lists, *ctx.rest)
    return (*grads, [None] * count, *[None] * len(ctx.rest))


def _refuse_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensors, ...]) -> None:  # noqa: ANN401
    pass


def _refuse(ctx: Any, *grads: Tensors) -> None:  # noqa: ANN401
    raise RuntimeError("fold_bn_fake_quant has no second derivative: its rounding has a straight-through gradient")


torch.library.register_fake("yolo_hw::fold_bn", _fake_fold)
torch.library.register_fake("yolo_hw::fold_bn_backward", _fake_fold_backward)
torch.library.register_fake("yolo_hw::fold_bn_fake_quant", _fake_layers)
torch.library.register_fake("yolo_hw::fold_bn_fake_quant_out", _fake_layers_out)
torch.library.register_fake("yolo_hw::fold_bn_fake_quant_backward", _fake_layers_backward)
torch.library.register_autograd("yolo_hw::fold_bn", _fold_backward, setup_context=_fold_context)
torch.library.register_autograd("yolo_hw::fold_bn_backward", _fold_double_backward, setup_context=_fold_double_context)
torch.library.register_autograd("yolo_hw::fold_bn_fake_quant", _layers_backward, setup_context=_layers_context)
torch.library.register_autograd("yolo_hw::fold_bn_fake_quant_backward", _refuse, setup_context=_refuse_context)

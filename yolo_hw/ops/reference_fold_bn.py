# SPDX-License-Identifier: Apache-2.0
"""Batch-norm folding in plain torch: slow, obvious, and what the compiled operators are tested against."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.ops import reference
from yolo_hw.ops.fold_bn import EPS, BatchNorm, FoldLayer

LANES = 64
"""Partial sums of a channel, kFoldLanes of csrc/core/fold_bn.h."""


def fold_bn(
    weight: Tensor, norm: BatchNorm, bias: Tensor | None = None, *, eps: float = EPS, transposed_groups: int = 0
) -> tuple[Tensor, Tensor]:
    """The values of `yolo_hw.ops.fold_bn`, same arguments; no gradient."""
    factor = norm.gamma / _standard_deviation(norm.var, eps)
    offset = (0 if bias is None else bias) - norm.mean
    channels_first = _channels_first(weight, transposed_groups)
    folded = channels_first * factor.reshape(-1, *[1] * (channels_first.dim() - 1))
    return _as_weight(folded, weight, transposed_groups), norm.beta + offset * factor


def fold_bn_fake_quant(
    layer: FoldLayer,
    fmt: FixedPoint,
    rounding: Rounding = Rounding.HALF_UP,
    overflow: Overflow = Overflow.SATURATE,
    *,
    eps: float = EPS,
) -> tuple[Tensor, Tensor]:
    """The values of `yolo_hw.ops.fold_bn_fake_quant`, same arguments; no gradient."""
    weight, groups = layer.weight, layer.transposed_groups
    if layer.norm is None:
        bias = weight.new_zeros(_channels_first(weight, groups).shape[0]) if layer.bias is None else layer.bias
    else:
        weight, bias = fold_bn(weight, layer.norm, layer.bias, eps=eps, transposed_groups=groups)
    codes = reference.fake_quant_pow2(_channels_first(weight, groups), fmt, rounding, overflow, frac=layer.frac)
    return _as_weight(codes, weight, groups), bias


def fold_bn_fake_quant_backward(
    grads: tuple[Tensor, Tensor],
    layer: FoldLayer,
    fmt: FixedPoint,
    rounding: Rounding = Rounding.HALF_UP,
    overflow: Overflow = Overflow.SATURATE,
    *,
    eps: float = EPS,
) -> tuple[Tensor, Tensor, BatchNorm]:
    """Gradients to weight, bias and batch norm of a layer that has one, added up in the order of the kernels.

    Args:
        grads: Gradients to the results, weight and bias.
        layer: The layer, contiguous.
        fmt: As in the forward, as the rest.
        rounding: As in the forward.
        overflow: As in the forward.
        eps: As in the forward.
    """
    assert layer.norm is not None
    gamma, _, mean, var = layer.norm
    std = _standard_deviation(var, eps)
    factor = gamma / std
    weight, grad = (_channels_first(x, layer.transposed_groups).flatten(1) for x in (layer.weight, grads[0]))
    folded = weight * factor[:, None]
    passed = reference.fake_quant_pow2_backward(grad, folded, fmt, rounding, overflow, frac=layer.frac)
    offset = (torch.zeros_like(mean) if layer.bias is None else layer.bias) - mean
    grad_factor = lane_sum(passed * weight) + grads[1] * offset
    shape = _channels_first(layer.weight, layer.transposed_groups).shape
    grad_weight = _as_weight((passed * factor[:, None]).reshape(shape), layer.weight, layer.transposed_groups)
    grad_var = torch.where(var < 0, torch.zeros_like(var), -0.5 * grad_factor * factor / (std * std))
    grad_bias = grads[1] * factor
    return grad_weight, grad_bias, BatchNorm(grad_factor / std, grads[1], -grad_bias, grad_var)


def lane_sum(x: Tensor) -> Tensor:
    """Sums over dimension 1, [K, n] to [K]: element i to lane i % 64 in order, then the lanes by halves."""
    lanes = x.new_zeros(x.shape[0], LANES)
    for first in range(0, x.shape[1], LANES):
        part = x[:, first : first + LANES]
        lanes[:, : part.shape[1]] += part
    while lanes.shape[1] > 1:
        lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
    return lanes[:, 0]


def _standard_deviation(var: Tensor, eps: float) -> Tensor:
    """The root of the clamped variance plus eps; numpy's is correctly rounded, torch's is not in every build."""
    return torch.from_numpy(np.sqrt((var.detach().clamp(min=0) + eps).numpy()))


def _channels_first(weight: Tensor, transposed_groups: int) -> Tensor:
    """[K, ...] as it is; [C, K / groups, ...] to [K, C / groups, ...]."""
    if not transposed_groups:
        return weight
    split = weight.reshape(transposed_groups, weight.shape[0] // transposed_groups, *weight.shape[1:])
    return split.transpose(1, 2).flatten(0, 1)


def _as_weight(channels_first: Tensor, weight: Tensor, transposed_groups: int) -> Tensor:
    """The inverse of `_channels_first`."""
    if not transposed_groups:
        return channels_first
    split = channels_first.reshape(transposed_groups, weight.shape[1], *channels_first.shape[1:])
    return split.transpose(1, 2).reshape(weight.shape)

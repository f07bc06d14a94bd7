# SPDX-License-Identifier: Apache-2.0
"""Folding batch norms into weights, alone or fused with fake quantisation; the kernels are ``csrc/{cpu,cuda}/fold_bn``.

The formulae and their derivation: ``docs/batch_norm.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.ops import _fold_bn_autograd  # noqa: F401 - registers fake kernels and gradients

EPS = 1e-5
"""Default of torch and, within float32, of darknet."""


class BatchNorm(NamedTuple):
    """The tensors of a batch norm over K channels, each [K], of the dtype and device of the weight."""

    gamma: Tensor
    """Scale."""
    beta: Tensor
    """Shift."""
    mean: Tensor
    """Mean of the layer's output: running (frozen form) or of the batch (training form)."""
    var: Tensor
    """Variance of the same; a negative one counts as zero."""


class FoldLayer(NamedTuple):
    """One layer of `fold_bn_fake_quant_layers`."""

    weight: Tensor
    """[K, ...]; of a transposed convolution [C, K / groups, ...]."""
    norm: BatchNorm | None = None
    """None for a layer without batch norm: its weight is quantised as it is, its bias kept."""
    bias: Tensor | None = None
    """[K], None for zero."""
    frac: Tensor | None = None
    """[1] or [K], int32: fraction bits in [-64, 64] that replace those of the format."""
    transposed_groups: int = 0
    """Groups of a transposed convolution, 0 for every other layer."""


def fold_bn(
    weight: Tensor, norm: BatchNorm, bias: Tensor | None = None, *, eps: float = EPS, transposed_groups: int = 0
) -> tuple[Tensor, Tensor]:
    r"""Fold a batch norm into the weight and the bias of the layer before it.

    .. math::
        f = \gamma / \sqrt{\max(\sigma^2, 0) + \epsilon}, \quad
        \hat w = w f, \quad \hat b = \beta + (b - \mu) f

    Every input but `eps` has a gradient, also the second one, so batch statistics may be folded in training. A negative
    variance has gradient zero.

    Args:
        weight: [K, ...], float32 or float64: convolution with any groups, depthwise, linear. Of a transposed
            convolution [C, K / transposed_groups, ...].
        norm: The batch norm, [K] each.
        bias: [K], None for zero.
        eps: The batch norm's, positive.
        transposed_groups: Groups of a transposed convolution, 0 for every other layer.

    Returns:
        Weight like `weight`, in its order in memory if that is contiguous or channels-last, else contiguous; bias [K].

    Raises:
        RuntimeError: A shape, dtype or device does not fit; the message names it.

    Reference:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        CVPR 2018, section 3.2, eq. (14).
    """
    bias = weight.new_empty(0) if bias is None else bias
    folded: tuple[Tensor, Tensor] = torch.ops.yolo_hw.fold_bn(weight, bias, *norm, eps, transposed_groups)
    return folded


def fold_bn_fake_quant(
    layer: FoldLayer,
    fmt: FixedPoint,
    rounding: Rounding = Rounding.HALF_UP,
    overflow: Overflow = Overflow.SATURATE,
    *,
    eps: float = EPS,
) -> tuple[Tensor, Tensor]:
    """Fold one layer's batch norm and quantise the folded weight, in one pass over the weights.

    Equal in every bit to `fold_bn` followed by `fake_quant_pow2` of the weight. See `fold_bn_fake_quant_layers`.

    Returns:
        Weight like that of the layer, bias [K], not quantised.
    """
    weights, biases = fold_bn_fake_quant_layers([layer], fmt, rounding, overflow, eps=eps)
    return weights[0], biases[0]


def fold_bn_fake_quant_layers(
    layers: Sequence[FoldLayer],
    fmt: FixedPoint,
    rounding: Rounding = Rounding.HALF_UP,
    overflow: Overflow = Overflow.SATURATE,
    *,
    eps: float = EPS,
    out: tuple[list[Tensor], list[Tensor]] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    r"""Fold and quantise all layers of a network in one call.

    .. math:: w_q = 2^{-n} \mathrm{overflow}(\mathrm{round}(w f \, 2^n)), \quad \hat b = \beta + (b - \mu) f

    with the factor f of `fold_bn` and fraction bits n. The gradient of the rounding is straight-through: it passes
    where the overflow leaves the rounded value unchanged, and everywhere with ``Overflow.WRAP``; where it passes is
    computed again from w, f and n in the backward. The gradients to `norm` are sums over a channel, in the weight's
    order in memory, split into 64 partial sums whatever the threads and the processor.

    Args:
        layers: The layers; all weights have one dtype, float32 or float64, and one device.
        fmt: Word length, fraction bits and sign of the quantised weights.
        rounding: Rule of the datapath (docs/numerics.md, section 2).
        overflow: What happens outside the format.
        eps: The batch norms', positive.
        out: Weights and biases to write to, one per layer, laid out in memory as the weights; no gradient is recorded.

    Returns:
        Weights and biases, one per layer; `out` if given.

    Raises:
        RuntimeError: A shape, dtype or device does not fit, or `out` was given where a gradient is wanted.
    """
    if not layers:  # no tensor that says which device to ask
        return ([], []) if out is None else out
    nothing = [layer.weight.new_empty(0) for layer in layers]
    norms = [layer.norm or BatchNorm(none, none, none, none) for layer, none in zip(layers, nothing, strict=True)]
    vectors = [list(column) for column in zip(*norms, strict=True)]
    fracs = [
        torch.full((1,), fmt.frac, dtype=torch.int32, device=layer.weight.device) if layer.frac is None else layer.frac
        for layer in layers
    ]
    weights_in = [layer.weight for layer in layers]
    biases_in = [none if layer.bias is None else layer.bias for layer, none in zip(layers, nothing, strict=True)]
    groups = [layer.transposed_groups for layer in layers]
    codes = (fmt.bits, fmt.signed, rounding.number, overflow.number)
    arguments = (weights_in, biases_in, *vectors, fracs, eps, groups, *codes)
    if out is None:
        weights, biases = torch.ops.yolo_hw.fold_bn_fake_quant(*arguments)
        return weights, biases
    if torch.is_grad_enabled() and any(x.requires_grad for column in (weights_in, biases_in, *vectors) for x in column):
        raise RuntimeError("fold_bn_fake_quant: out= records no gradient; use torch.no_grad() or leave out= away")
    torch.ops.yolo_hw.fold_bn_fake_quant_out(*arguments, *out)
    return out

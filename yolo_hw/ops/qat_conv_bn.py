# SPDX-License-Identifier: Apache-2.0
"""A convolution with batch norm in quantisation-aware training: one convolution, one batch norm, no extra pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.ops.batch_norm import batch_norm
from yolo_hw.ops.fold_bn import EPS, BatchNorm, FoldLayer, fold_bn_fake_quant


class ConvGeometry(NamedTuple):
    """Arguments of ``torch.nn.functional.conv2d``, in its order."""

    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, int] = 0
    dilation: int | tuple[int, int] = 1
    groups: int = 1


class WeightFormat(NamedTuple):
    """How folded weights are quantised: arguments of `fold_bn_fake_quant`, in its order."""

    fmt: FixedPoint
    rounding: Rounding = Rounding.HALF_UP
    overflow: Overflow = Overflow.SATURATE


def qat_conv_bn(
    x: Tensor,
    layer: FoldLayer,
    quantiser: WeightFormat,
    geometry: ConvGeometry,
    *,
    training: bool,
    eps: float = EPS,
    momentum: float = 0.1,
) -> Tensor:
    r"""Convolve with the weight the hardware will have, then normalise as the batch norm of training would.

    In training the weight is folded with the factor of the running statistics, which the batch does not disturb:

    .. math::
        c = \gamma / \sqrt{\sigma_r^2 + \epsilon}, \quad y = x * Q(w c), \quad
        \mathrm{out} = |\gamma| \frac{y - \mu_y}{\sqrt{\sigma_y^2 + \epsilon c^2}} + \beta

    This equals batch norm with epsilon of :math:`z = y / c`, that is of the convolution with :math:`Q(w c) / c`,
    without the pass over the feature map that a division by c or a second convolution for the statistics would take.
    c is a constant of the gradient: the result depends on it only by the rounding. Running statistics are those of z
    and are updated in place; a channel whose c is zero keeps them.

    Without training the running statistics are used: :math:`\mathrm{out} = x * Q(w c) + \beta - \mu_r c`, and every
    parameter has its gradient.

    Args:
        x: [N, C, H, W], float32 or float64.
        layer: Weight [K, C / groups, R, S] and batch norm with the running statistics; a bias is refused, as the batch
            norm removes it.
        quantiser: Format of the folded weights.
        geometry: Of the convolution.
        training: Batch statistics if true, else the running ones.
        eps: The batch norm's.
        momentum: Weight of the batch in the running statistics, in [0, 1].

    Returns:
        [N, K, H', W'], in the memory order of the convolution's result.

    Raises:
        ValueError: `layer` has no batch norm, a bias, or is transposed.

    Reference:
        Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: A whitepaper", 2018, section
        3.2.2 (batch-norm correction); Jacob et al., CVPR 2018, section 3.2.
    """
    if layer.norm is None or layer.bias is not None or layer.transposed_groups:
        raise ValueError("qat_conv_bn: layer must have a batch norm, no bias and not be transposed")
    if not training:
        weight, bias = fold_bn_fake_quant(layer, *quantiser, eps=eps)
        return functional.conv2d(x, weight, bias, *geometry)
    # Copies, as the running statistics change before the backward comes.
    constant = BatchNorm(*(vector.detach().clone() for vector in layer.norm))
    weight, _ = fold_bn_fake_quant(layer._replace(norm=constant), *quantiser, eps=eps)
    y = functional.conv2d(x, weight, None, *geometry)
    factor = constant.gamma / torch.sqrt(constant.var.clamp(min=0) + eps)
    out, mean, var = batch_norm(y, layer.norm.gamma.abs(), layer.norm.beta, eps * factor.square())
    _update_running(layer.norm, (mean, var), factor, y.numel() // y.shape[1], momentum)
    return out


def _update_running(
    norm: BatchNorm, statistics: tuple[Tensor, Tensor], factor: Tensor, values: int, momentum: float
) -> None:
    """Move the running statistics towards those of z = y / factor.

    Args:
        norm: Changed in place, [K] each.
        statistics: Mean and biased variance of y, [K] each.
        factor: [K].
        values: Per channel.
        momentum: Share of the batch.
    """
    unbiased = values / max(values - 1, 1)
    with torch.no_grad():
        for running, of_y, scale in zip(
            (norm.mean, norm.var), statistics, (factor, factor.square() / unbiased), strict=True
        ):
            of_z = of_y / scale
            running.copy_(torch.where(of_z.isfinite(), running.lerp(of_z, momentum), running))

# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation with batch statistics, an epsilon per channel; the kernels are ``csrc/{cpu,cuda}/batch_norm``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from yolo_hw.ops._library import load_library

load_library()


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Normalise each channel with the mean and the variance of its n values.

    .. math::
        y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \gamma + \beta, \quad
        \mu = \frac 1 n \sum x, \quad \sigma^2 = \frac 1 n \sum (x - \mu)^2

    As ``torch.nn.functional.batch_norm`` in training, but with an epsilon for every channel. Sums are float64 in an
    order that does not depend on threads or processor. Where :math:`\sigma^2 + \epsilon` is zero the result is
    :math:`\beta`. The statistics that are returned have no gradient.

    Args:
        x: [N, C, ...], float32 or float64, at least one value per channel. Channels-last memory is used as it is.
        weight: [C], :math:`\gamma`.
        bias: [C], :math:`\beta`.
        eps: [1] or [C], :math:`\epsilon`, not negative, no gradient; dtype and device of `x`, as all others.

    Returns:
        y like `x`, its mean [C] and its biased variance [C].

    Reference:
        Ioffe and Szegedy, "Batch Normalization", ICML 2015.
    """
    y, mean, var = torch.ops.yolo_hw.batch_norm(x, weight, bias, eps)
    return y, mean, var


def batch_norm_backward(grad: Tensor, x: Tensor, *vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `batch_norm`'s x, weight and bias.

    Args:
        grad: [N, C, ...], that of its result.
        x: As given to it.
        vectors: Its weight, the mean and the variance it returned, and epsilon, as given to it.
    """
    to_x, to_weight, to_bias = torch.ops.yolo_hw.batch_norm_backward(grad, x, *vectors)
    return to_x, to_weight, to_bias


def _dense_like(x: Tensor) -> Tensor:
    """An empty tensor with the order in memory that the kernels give to results shaped like `x`."""
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.empty_like(x)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake(x: Tensor, weight: Tensor, bias: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _dense_like(x), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


def _fake_backward(grad: Tensor, x: Tensor, weight: Tensor, *args: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _dense_like(x), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
    x, weight, _, eps = inputs
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.save_for_backward(x, weight, mean, var, eps)


def _backward(ctx: Any, grad: Tensor, *statistics: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    return (*batch_norm_backward(grad, *ctx.saved_tensors), None)


def _refuse_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
    pass


def _refuse(ctx: Any, *grads: Tensor) -> None:  # noqa: ANN401
    raise RuntimeError("yolo_hw::batch_norm has no second derivative; torch.nn.functional.batch_norm has one")


torch.library.register_fake("yolo_hw::batch_norm", _fake)
torch.library.register_fake("yolo_hw::batch_norm_backward", _fake_backward)
torch.library.register_autograd("yolo_hw::batch_norm", _backward, setup_context=_setup_context)
torch.library.register_autograd("yolo_hw::batch_norm_backward", _refuse, setup_context=_refuse_context)

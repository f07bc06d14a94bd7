# SPDX-License-Identifier: Apache-2.0
"""A convolution that is trained with the weights the hardware will have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import MAX_ABS_FRAC, IntArray
from yolo_hw.geometry import Window
from yolo_hw.intgraph.check import BIAS_BITS
from yolo_hw.nn.windows import pad_windows
from yolo_hw.ops.batch_norm import batch_norm, batch_norm_backward
from yolo_hw.ops.fold_bn import BatchNorm, fold_bn
from yolo_hw.quant.config import QuantConfig
from yolo_hw.quant.folded import FoldedConv
from yolo_hw.quant.plan import ConvCodes
from yolo_hw.quant.qat.config import NormFold
from yolo_hw.quant.qat.flag import Flag
from yolo_hw.quant.qat.quantiser import FracLimits, Quantiser, exact_exp2
from yolo_hw.quant.source import ConvSource, Norm, norm_vectors
from yolo_hw.quant.weights import round_bias

SPARE_BITS = 2
"""Bits of a bias's word besides its magnitude: the sign, and one so that bias and sum fit an int32 together."""


class QatConv(nn.Module):
    r"""Convolution whose folded weight is rounded: :math:`y = x * Q(w c) + b`, with c the factor of the batch norm.

    Weight and batch norm stay apart as parameters. With frozen statistics and in evaluation
    :math:`c = \gamma / \sqrt{\sigma_r^2 + \epsilon}` and :math:`b = \beta - \mu_r c`; before the freeze a `NormFold`
    says what the statistics of the batch do. With `NormFold.NONE` it is :math:`y = (x * Q(w)) c + b`.

    Attributes:
        weight: [K, C / groups, R, S], without the batch norm.
        bias: [K] or None.
        norm: The batch norm or None.
        quantiser: Rounds the folded weight.
        norm_frozen: Whether training uses the running statistics, too.
    """

    weight: Tensor
    bias: Tensor | None
    norm_frozen: Tensor

    def __init__(
        self, node: FoldedConv, source: ConvSource, quantiser: Quantiser, norm_fold: NormFold, config: QuantConfig
    ) -> None:
        """Copy the source's parameters.

        Args:
            node: Shapes and geometry.
            source: The parameters to start from.
            quantiser: Rounds the folded weights; one channel, or as many as the weight.
            norm_fold: What training does before the statistics are frozen.
            config: Rounding and target, which decide on biases.
        """
        super().__init__()
        self.window, self.groups, self.out_size = node.window, node.groups, (node.shape.h, node.shape.w)
        self.quantiser, self.norm_fold, self.gain, self.config = quantiser, norm_fold, source.gain, config
        weight = source.weight.detach().clone().contiguous()
        if source.fixed:
            self.register_buffer("weight", weight)
        else:
            self.weight = nn.Parameter(weight)
        bias = None if source.bias is None else source.bias.detach().clone()
        if bias is None or source.fixed_bias:
            self.register_buffer("bias", bias)
        else:
            self.bias = nn.Parameter(bias)
        self.norm = None if source.norm is None else _copied(source.norm)
        self.register_buffer("norm_frozen", torch.tensor(self.norm is None))
        self._norm_frozen = Flag()

    @property
    def scalable(self) -> bool:
        """Whether a parameter can take a factor of the output's channels."""
        return self.norm is None or self.norm.weight is not None

    @property
    def norm_apart(self) -> bool:
        """Whether a batch norm stays behind the convolution."""
        return self.norm is not None and not self.norm_fold.folds

    def forward(self, x: Tensor, x_frac: Tensor | None, limits: FracLimits | None) -> Tensor:
        """Return the accumulators as real values.

        Args:
            x: [N, C, H, W], on the grid of `x_frac`.
            x_frac: [1] fraction bits of x; None if the model has no integer form: biases are not rounded then.
            limits: What the target allows of the weights' fraction bits; None with `x_frac`.

        Returns:
            [N, K, H', W'].
        """
        if self.training and not self._norm_frozen.read(self.norm_frozen):
            return _TRAINING[self.norm_fold](self, x, x_frac, limits)
        if self.norm_apart:
            return self._affine(self.convolve(x, self.quantiser(self._scaled_weight())))
        weight, bias = self.folded()
        limits = self.limits(limits, bias, x_frac)
        return self.convolve(x, self.quantiser(weight, limits), self._stored(bias, x_frac, limits))

    def rounded_weight(self) -> Tensor:
        """Return what evaluation rounds, [K, C / groups, R, S]."""
        return self._scaled_weight() if self.norm_apart else self.folded()[0]

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias, folded with the running statistics."""
        weight = self._scaled_weight()
        if self.norm is None:
            return weight, weight.new_zeros(weight.shape[0]) if self.bias is None else self.bias
        return fold_bn(weight, BatchNorm(*norm_vectors(self.norm)), self.bias, eps=self.norm.eps)

    def limits(self, limits: FracLimits | None, bias: Tensor, x_frac: Tensor | None) -> FracLimits | None:
        """Return `limits`, and those with which the bias [K] fits its word, for every channel of the quantiser."""
        if limits is None or x_frac is None:
            return None
        _, exponent = torch.frexp(bias.detach())  # |bias| < 2**exponent
        exponent = torch.where(bias.detach() == 0, -MAX_ABS_FRAC, exponent)
        profile = self.config.profile
        room = min(profile.bias_bits + profile.bias_shift.hi, BIAS_BITS) - SPARE_BITS
        highest = torch.minimum(limits.highest, room - exponent - x_frac)
        lowest = limits.lowest.expand_as(highest)
        if self.quantiser.channels == 1:
            return FracLimits(lowest.amax().reshape(1), highest.amin().reshape(1))
        return FracLimits(lowest, highest)

    @torch.no_grad()
    def codes(self, x_frac: Tensor, limits: FracLimits | None) -> ConvCodes:
        """Return what evaluation computes with, as integers."""
        weight, bias = self.folded()
        allowed = self.limits(limits, bias, x_frac)
        frac = self.quantiser.frac(allowed).expand(weight.shape[0])
        codes = torch.ldexp(self.quantiser(weight, allowed), frac.reshape(-1, 1, 1, 1))
        biases = torch.ldexp(self._rounded(bias, frac + x_frac).double(), frac + x_frac)
        return ConvCodes(_integers(codes), _integers(frac), _integers(biases), self.quantiser.grid.bits)

    def source(self) -> tuple[Tensor, Norm | None, Tensor | None]:
        """Return weight, batch norm and bias as `ConvSource.load` takes them."""
        return self.weight, self.norm, self.bias

    @torch.no_grad()
    def rescale(self, out: Tensor | None, into: Tensor | None) -> None:
        """Multiply output channels by powers of two, and divide the weights of input channels.

        Args:
            out: [K] exponents of the output's channels, None for zeros.
            into: Exponents of the input's channels, [C] or, of a depthwise convolution, [K]; None for zeros.
        """
        if into is not None:
            axis = 0 if self.groups > 1 else 1
            self.weight.mul_(exact_exp2(-into).to(self.weight).reshape([-1 if i == axis else 1 for i in range(4)]))
        if out is not None:
            factor = exact_exp2(out).to(self.weight)
            if self.norm is None:
                self.weight.mul_(factor.reshape(-1, 1, 1, 1))
            vectors = (self.bias,) if self.norm is None else (self.norm.weight, self.norm.bias)
            for vector in vectors:
                if vector is not None:
                    vector.mul_(factor)

    @torch.no_grad()
    def shift(self, change: Tensor) -> None:
        """Add [K] to the output, where the layer has a parameter for it."""
        vector = self.bias if self.norm is None else self.norm.bias
        if isinstance(vector, nn.Parameter):
            vector.add_(change.to(vector))

    def freeze_norm(self) -> None:
        """From now on training uses the running statistics and does not change them."""
        self.norm_frozen.fill_(True)

    def _stored(self, bias: Tensor, x_frac: Tensor | None, limits: FracLimits | None) -> Tensor:
        """Return the bias [K] as the target stores it, straight-through.

        In training only where its word is short: 32 bits hold the accumulator's grid, far finer than the output's.
        """
        short = self.config.profile.bias_bits < BIAS_BITS and self.quantiser.rounds
        if x_frac is None or (self.training and not short):
            return bias
        return self._rounded(bias, self.quantiser.frac(limits) + x_frac) + (bias - bias.detach())

    def _rounded(self, bias: Tensor, acc_frac: Tensor) -> Tensor:
        """Round the bias [K] to what the target can store beside accumulators of `acc_frac` [1] or [K]."""
        frac = acc_frac.expand_as(bias).cpu().long()
        codes = round_bias(bias.detach().double().cpu().numpy(), frac.numpy(), self.config)
        return torch.ldexp(torch.from_numpy(codes).double(), -frac).to(bias)

    def _scaled_weight(self) -> Tensor:
        return self.weight if self.gain == 1 else self.weight * self.gain

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Apply the layer's geometry: x [N, C, H, W], weight like the layer's, bias [K] to [N, K, H', W']."""
        window, padding = self.window, self.window.pad
        if not _is_symmetric(window, x, self.out_size):
            x, padding = pad_windows(x, window, self.out_size, 0.0), (0, 0)
        return F.conv2d(x, weight, bias, window.stride, padding, window.dilation, self.groups)

    def _factor(self) -> tuple[BatchNorm, Tensor]:
        """Return the batch norm as constants and its factor c [K]: copies, since the statistics change in between."""
        assert self.norm is not None
        constant = BatchNorm(*(vector.detach().clone() for vector in norm_vectors(self.norm)))
        return constant, constant.gamma / torch.sqrt(constant.var.clamp(min=0) + self.norm.eps)

    def _quantised(self, norm: BatchNorm, x_frac: Tensor | None, limits: FracLimits | None) -> Tensor:
        """Fold with `norm` and round."""
        assert self.norm is not None
        weight, bias = fold_bn(self._scaled_weight(), norm, self.bias, eps=self.norm.eps)
        return cast(Tensor, self.quantiser(weight, self.limits(limits, bias, x_frac)))

    def _one_pass(self, x: Tensor, x_frac: Tensor | None, limits: FracLimits | None) -> Tensor:
        """`yolo_hw.ops.qat_conv_bn` with any quantiser."""
        assert self.norm is not None
        constant, factor = self._factor()
        y = self.convolve(x, self._quantised(constant, x_frac, limits))
        gamma, beta, *_ = norm_vectors(self.norm)
        size = constant.var.clamp(min=0) + self.norm.eps
        out, mean, var = _normalised(y, gamma.abs(), beta, self.norm.eps * factor.square(), size * factor.square())
        self._update(mean / factor, var / factor.square(), y.numel() // y.shape[1])
        return out

    def _two_pass(self, x: Tensor, x_frac: Tensor | None, limits: FracLimits | None) -> Tensor:
        mean, var, count = self._batch_statistics(x)
        assert self.norm is not None
        constant, _ = self._factor()
        gamma, beta, *_ = norm_vectors(self.norm)
        y = self.convolve(x, self._quantised(constant, x_frac, limits))
        deviation = torch.sqrt(_known(var, constant.var) + self.norm.eps)
        # gamma / deviation, as the ratio to the constant that the weights hold: gamma passes its gradient here.
        ratio = torch.sqrt(constant.var.clamp(min=0) + self.norm.eps) / deviation * _over(gamma)
        bias = beta - mean * gamma / deviation
        self._update(mean, var, count)
        return y * ratio.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)

    def _batch(self, x: Tensor, x_frac: Tensor | None, limits: FracLimits | None) -> Tensor:
        mean, var, count = self._batch_statistics(x)
        assert self.norm is not None
        gamma, beta, _, running = norm_vectors(self.norm)
        norm = BatchNorm(gamma, beta, mean, _known(var, running.detach().clone()))
        weight, bias = fold_bn(self._scaled_weight(), norm, None, eps=self.norm.eps)
        self._update(mean, var, count)
        return self.convolve(x, self.quantiser(weight, self.limits(limits, bias, x_frac)), bias)

    def _apart(self, x: Tensor, x_frac: Tensor | None, limits: FracLimits | None) -> Tensor:
        assert self.norm is not None
        y = self.convolve(x, self.quantiser(self._scaled_weight()))
        gamma, beta, _, running = norm_vectors(self.norm)
        eps = torch.full_like(running, self.norm.eps)
        out, mean, var = _normalised(y, gamma, beta, eps, running.clamp(min=0) + eps)
        self._update(mean, var, y.numel() // y.shape[1])
        return out

    def _affine(self, y: Tensor) -> Tensor:
        """Apply bias and batch norm, with the running statistics, to a convolution's result [N, K, H, W]."""
        assert self.norm is not None
        gamma, beta, mean, var = norm_vectors(self.norm)
        factor = gamma / torch.sqrt(var.clamp(min=0) + self.norm.eps)
        shift = beta + ((0 if self.bias is None else self.bias) - mean) * factor
        return y * factor.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)

    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor, int]:
        """Return mean and biased variance [K] of the float convolution (the bias aside), and values per channel."""
        y = self.convolve(x, self._scaled_weight())
        var, mean = torch.var_mean(y, (0, 2, 3), correction=0)
        return mean, var, y.numel() // y.shape[1]

    @torch.no_grad()
    def _update(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Move the running statistics; a channel whose statistics are not finite, with a factor of 0, keeps them."""
        assert self.norm is not None
        if type(self.norm) not in (nn.BatchNorm1d, nn.BatchNorm2d):
            raise QuantError(
                f"quantisation-aware training: statistics over processes ({type(self.norm).__name__}) are not "
                "supported; train without sync_batch_norm, or freeze the norms"
            )
        bias = 0 if self.bias is None else self.bias
        _, _, running_mean, running_var = norm_vectors(self.norm)
        momentum = self.norm.momentum if self.norm.momentum is not None else 1 / (_count(self.norm) + 1)
        unbiased = count / max(count - 1, 1)
        for running, found in ((running_mean, mean + bias), (running_var, var * unbiased)):
            running.copy_(torch.where(found.isfinite(), running.lerp(found.to(running), momentum), running))
        if self.norm.num_batches_tracked is not None:
            self.norm.num_batches_tracked.add_(1)


_TRAINING = {
    NormFold.ONE_PASS: QatConv._one_pass,
    NormFold.TWO_PASS: QatConv._two_pass,
    NormFold.BATCH: QatConv._batch,
    NormFold.NONE: QatConv._apart,
}


def _count(norm: Norm) -> int:
    return int(cast(Tensor, norm.num_batches_tracked))


def _copied(norm: Norm) -> nn.BatchNorm2d:
    """Return a batch norm with copies of the tensors that the other one has, and only these."""
    copied = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum)
    for name in ("weight", "bias"):
        if getattr(norm, name) is None:
            setattr(copied, name, None)
    with torch.no_grad():
        if norm.num_batches_tracked is not None and copied.num_batches_tracked is not None:
            copied.num_batches_tracked.copy_(norm.num_batches_tracked)
        for mine, other in zip(norm_vectors(copied), norm_vectors(norm), strict=True):
            mine.copy_(other)
    return copied.to(next(iter(norm_vectors(norm))))


def _known(var: Tensor, running: Tensor) -> Tensor:
    """Return the variances of a batch [K], the running ones for channels that the batch shows as constant.

    Where rounding has left one value, its variance of 0 says nothing of the channel, and ``1 / sqrt(eps)`` in its place
    multiplies gradients: over a few layers of which nothing is left, beyond every float.
    """
    return torch.where(var == 0, running.clamp(min=0), var)


class _Normalised(Function):
    """`batch_norm`, with the gradient of the running variance for constant channels; see `_known`.

    Such a channel comes out as its shift under every epsilon, so only the gradient has to know which ones they are, and
    no device is asked in between.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401 - torch has no type for it
        """Normalise.

        Args:
            ctx: Of the function.
            y: [N, K, H, W].
            vectors: Scale, shift, epsilon, and the running variance, epsilon included, in the units of y; [K] each.

        Returns:
            The normalised y, its mean and its biased variance [K].
        """
        scale, shift, eps, size = vectors
        out, mean, var = batch_norm(y, scale, shift, eps)
        ctx.mark_non_differentiable(mean, var)
        ctx.save_for_backward(y, scale, mean, var, torch.where(var == 0, size, eps))
        return out, mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *statistics: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of y, scale and shift."""
        return (*batch_norm_backward(grad, *ctx.saved_tensors), None, None)


_normalised = cast(Callable[..., tuple[Tensor, Tensor, Tensor]], _Normalised.apply)


def _over(gamma: Tensor) -> Tensor:
    """1 with the gradient of ``gamma / constant gamma``; 1 without one where gamma is zero."""
    constant = gamma.detach()
    return torch.where(constant == 0, torch.ones_like(gamma), gamma / torch.where(constant == 0, 1, constant))


def _is_symmetric(window: Window, x: Tensor, out_size: tuple[int, int]) -> bool:
    return all(window.trailing_pad(axis, x.shape[2 + axis], out_size[axis]) == window.pad[axis] for axis in (0, 1))


def _integers(x: Tensor) -> IntArray:
    return cast(IntArray, x.detach().double().cpu().numpy().astype("int64"))

# SPDX-License-Identifier: Apache-2.0
"""Modules that round a tensor to a fixed-point grid; they differ in where its fraction bits come from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import MAX_ABS_FRAC, FixedPoint, Overflow, Rounding
from yolo_hw.ops import fake_quant_lsq, fake_quant_pow2, fake_quant_tqt
from yolo_hw.quant.qat.config import ScaleMethod
from yolo_hw.quant.qat.flag import Flag


class FracLimits(NamedTuple):
    """Fraction bits the target can use, [1] or one per channel."""

    lowest: Tensor
    highest: Tensor


@dataclass(frozen=True)
class Grid:
    """A fixed-point format but for its fraction bits, and the rules of rounding to it."""

    bits: int
    signed: bool = True
    rounding: Rounding = Rounding.HALF_UP
    overflow: Overflow = Overflow.SATURATE

    @property
    def magnitude_bits(self) -> int:
        """Bits besides the sign."""
        return self.bits - self.signed

    def format(self, frac: int = 0) -> FixedPoint:
        """Return the format with `frac` fraction bits."""
        return FixedPoint(self.bits, frac, self.signed)


class Quantiser(nn.Module):
    """Rounds tensors to the grid ``codes * 2**-frac``, with one frac or one per channel (dimension 0).

    Attributes:
        frozen: Whether training leaves the fraction bits as they are.
    """

    power_of_two: ClassVar[bool] = True
    """Whether the step is one; no other has fraction bits, or an integer form."""
    observes: ClassVar[bool] = False
    """Whether calibration shows it tensors."""

    frozen: Tensor

    def __init__(self, grid: Grid, channels: int = 1) -> None:
        """Keep the format; the fraction bits are not set yet.

        Args:
            grid: Word length, sign, rounding, overflow.
            channels: 1 for one frac per tensor, else the size of dimension 0.
        """
        super().__init__()
        self.grid = grid
        self.channels = channels
        self.register_buffer("frozen", torch.tensor(False))
        self._frozen = Flag()

    @property
    def rests(self) -> bool:
        """Whether training leaves the fraction bits as they are: `frozen`."""
        return self._frozen.read(self.frozen)

    def set_frac(self, frac: Tensor) -> None:
        """Start from these fraction bits, [channels] integers."""
        raise NotImplementedError

    def observe(self, x: Tensor, first: bool) -> None:
        """Take in a tensor [...] of calibration, as the quantised network computes it.

        Args:
            x: Weights, once, or the values of one batch.
            first: Whether it is the first: what was seen before counts no more.
        """
        raise NotImplementedError

    def one_batch(self) -> AbstractContextManager[None]:
        """Within it all tensors are of one batch: what follows the tensors moves once, by what they all need."""
        return nullcontext()

    def frac(self, limits: FracLimits | None = None) -> Tensor:
        """Return the fraction bits in use, [channels] int32, within `limits`.

        Raises:
            QuantError: The step is no power of two.
        """
        raise NotImplementedError

    @property
    def rounds(self) -> bool:
        """Whether it rounds what it is given now."""
        return True

    def forward(self, x: Tensor, limits: FracLimits | None = None) -> Tensor:
        """Round [...] to the grid, straight-through; [...] of the same dtype."""
        raise NotImplementedError

    def format(self) -> FixedPoint:
        """Return the format of a tensor with one frac."""
        return self.grid.format(int(self.frac()))

    def extra_repr(self) -> str:
        """Show the word length."""
        sign = "s" if self.grid.signed else "u"
        return f"{sign}{self.grid.bits}, channels={self.channels}"

    def _round(self, x: Tensor, frac: Tensor) -> Tensor:
        grid = self.grid
        return fake_quant_pow2(x, grid.format(), grid.rounding, grid.overflow, frac=frac)


class FixedQuantiser(Quantiser):
    """Fraction bits that training leaves as they are."""

    bits_of_fraction: Tensor

    def __init__(self, grid: Grid, channels: int = 1) -> None:
        """See `Quantiser`."""
        super().__init__(grid, channels)
        self.register_buffer("bits_of_fraction", torch.zeros(channels, dtype=torch.int32))

    def set_frac(self, frac: Tensor) -> None:
        """See `Quantiser.set_frac`."""
        self.bits_of_fraction.copy_(frac)

    def frac(self, limits: FracLimits | None = None) -> Tensor:
        """See `Quantiser.frac`."""
        return limited(self.bits_of_fraction, limits)

    def forward(self, x: Tensor, limits: FracLimits | None = None) -> Tensor:
        """See `Quantiser.forward`."""
        return self._round(x, self.frac(limits))


@dataclass
class _Batch:
    """What a batch has shown: the range before it, the largest of its tensors, the weight of the latter."""

    before: Tensor
    seen: Tensor
    momentum: float | None = None


class RangeQuantiser(Quantiser):
    r"""The finest step that clips nothing of a moving average of ranges.

    .. math:: m \leftarrow (1 - a) m + a \max |x|, \quad
        f = \lfloor \log_2 ((2^{b - signed} - 1/2) / m) \rfloor

    A momentum a of 1, as for weights, takes every tensor as it is. The tensors of a group are one x: a step of the
    average per batch, toward the largest of all (`one_batch`). For signed formats the more negative of the two ends is
    not used, so that no sign is preferred.
    """

    largest: Tensor

    def __init__(self, grid: Grid, channels: int = 1, momentum: float = 1.0) -> None:
        """See `Quantiser`; `momentum` is the weight of a new range."""
        super().__init__(grid, channels)
        self.momentum = momentum
        self.register_buffer("largest", torch.ones(channels))
        self._batch: _Batch | None = None

    def set_frac(self, frac: Tensor) -> None:
        """See `Quantiser.set_frac`: the range becomes one in the middle of those with these fraction bits."""
        self.largest.copy_(0.75 * self._reach() * exact_exp2(-frac))

    def frac(self, limits: FracLimits | None = None) -> Tensor:
        """See `Quantiser.frac`."""
        _, exponent = torch.frexp(self._reach() / self.largest.double())  # in [0.5, 1) * 2**exponent
        frac = torch.where(self.largest > 0, exponent - 1, self.grid.bits - 1)
        return limited(frac.clamp(-MAX_ABS_FRAC, MAX_ABS_FRAC).int(), limits)

    def forward(self, x: Tensor, limits: FracLimits | None = None) -> Tensor:
        """See `Quantiser.forward`; in training the range follows `x`."""
        if self.training and not self.rests:
            self._follow(x, self.momentum)
        return self._round(x, self.frac(limits))

    @contextmanager
    def one_batch(self) -> Iterator[None]:
        """See `Quantiser.one_batch`."""
        self._batch = _Batch(self.largest.clone(), torch.zeros_like(self.largest))
        try:
            yield
        finally:
            self._batch = None

    @torch.no_grad()
    def _follow(self, x: Tensor, momentum: float) -> None:
        """Move the range toward that of `x`, within `one_batch` from where it was before; the first momentum counts."""
        sizes = x.abs() if self.grid.signed else x.clamp_min(0)  # what a relu will remove may still be there
        found = sizes.amax() if self.channels == 1 else sizes.flatten(1).amax(1)
        found = found.reshape(-1).to(self.largest)
        if self._batch is None:
            self.largest.lerp_(found, momentum)
            return
        batch = self._batch
        batch.momentum = momentum if batch.momentum is None else batch.momentum
        batch.seen = torch.maximum(batch.seen, found)
        self.largest.copy_(batch.before.lerp(batch.seen, batch.momentum))

    def _reach(self) -> float:
        """The largest magnitude that rounds to a code of the format with frac 0, a little less than the tie."""
        return (1 << self.grid.magnitude_bits) - 1 + 0.49


class TqtQuantiser(Quantiser):
    """A trained threshold; see `yolo_hw.ops.fake_quant_tqt`."""

    def __init__(self, grid: Grid, channels: int = 1) -> None:
        """See `Quantiser`."""
        super().__init__(grid, channels)
        need_saturation(grid, ScaleMethod.TQT)
        self.log2_t = nn.Parameter(torch.zeros(channels))

    def set_frac(self, frac: Tensor) -> None:
        """See `Quantiser.set_frac`: thresholds in the middle of the interval that gives these fraction bits."""
        with torch.no_grad():
            self.log2_t.copy_(self.grid.magnitude_bits - frac - 0.5)

    @torch.no_grad()
    def frac(self, limits: FracLimits | None = None) -> Tensor:
        """See `Quantiser.frac`."""
        return _frac_of_step(self.forward(_beyond(self.log2_t), limits), self.grid)

    def forward(self, x: Tensor, limits: FracLimits | None = None) -> Tensor:
        """See `Quantiser.forward`."""
        log2_t, grid = self.log2_t.detach() if self.rests else self.log2_t, self.grid
        log2_t = _between(log2_t, limits, grid.magnitude_bits)
        return fake_quant_tqt(x, log2_t, grid.bits, grid.signed, grid.rounding, overflow=grid.overflow)


class LsqQuantiser(Quantiser):
    """A trained step; see `yolo_hw.ops.fake_quant_lsq`.

    Its logarithm is the parameter: the step stays positive, and an optimiser's stride means the same at every size.
    """

    def __init__(self, grid: Grid, channels: int = 1) -> None:
        """See `Quantiser`."""
        super().__init__(grid, channels)
        need_saturation(grid, ScaleMethod.LSQ)
        self.log2_scale = nn.Parameter(torch.zeros(channels))

    def set_frac(self, frac: Tensor) -> None:
        """See `Quantiser.set_frac`."""
        with torch.no_grad():
            self.log2_scale.copy_(-frac)

    @torch.no_grad()
    def frac(self, limits: FracLimits | None = None) -> Tensor:
        """See `Quantiser.frac`."""
        return _frac_of_step(self.forward(_beyond(self.log2_scale), limits), self.grid)

    def forward(self, x: Tensor, limits: FracLimits | None = None) -> Tensor:
        """See `Quantiser.forward`."""
        log2_scale, grid = self.log2_scale.detach() if self.rests else self.log2_scale, self.grid
        log2_scale = _between(log2_scale, limits, 0)
        return fake_quant_lsq(x, log2_scale.exp2(), grid.bits, grid.signed, grid.rounding, overflow=grid.overflow)


def need_saturation(grid: Grid, method: ScaleMethod) -> None:
    """Check that values outside of the format saturate."""
    if grid.overflow is Overflow.WRAP:
        raise QuantError(
            f"{method.value}: overflow must saturate, as a threshold that wraps has no gradient; got "
            f"{grid.overflow.value}; use {ScaleMethod.RANGE.value} or {ScaleMethod.FIXED.value}"
        )


def limited(frac: Tensor, limits: FracLimits | None) -> Tensor:
    """Return fraction bits within `limits`."""
    if limits is None:
        return frac
    return frac.clamp(min=limits.lowest.to(frac)).clamp(max=limits.highest.to(frac))


class _Bounded(Function):
    """A clamp whose gradient still leads back between the bounds; the one that leads further away is 0.

    `torch.clamp` has none at all outside, so that a trained parameter which once has left its bounds, or which begins
    there, would rest forever.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:  # noqa: ANN401 - torch has no type for it
        ctx.save_for_backward(x < lowest, x > highest)
        return x.clamp(max=highest).clamp(min=lowest)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        below, above = ctx.saved_tensors
        return grad.masked_fill((below & (grad > 0)) | (above & (grad < 0)), 0), None, None


def _between(parameter: Tensor, limits: FracLimits | None, offset: int) -> Tensor:
    """Return a trained ``offset - frac`` [C] within `limits`, within what the operators take where there are none."""
    if limits is None:
        ends = (parameter.new_full((1,), frac, requires_grad=False) for frac in (-MAX_ABS_FRAC, MAX_ABS_FRAC))
        limits = FracLimits(*ends)
    lowest, highest = (offset - limit.to(parameter) for limit in (limits.highest, limits.lowest))
    return cast(Tensor, _Bounded.apply(parameter, lowest, highest))  # type: ignore[no-untyped-call]


def exact_exp2(exponent: Tensor) -> Tensor:
    """Return ``2**exponent`` in float64."""
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), exponent)


def _beyond(parameter: Tensor) -> Tensor:
    """One value per channel that every format clips to its largest code."""
    return parameter.new_full((parameter.numel(), 1), math.inf)


def _frac_of_step(largest: Tensor, grid: Grid) -> Tensor:
    """Return the fraction bits with which the largest code stands for `largest`: the operator itself is asked."""
    _, exponent = torch.frexp(largest.double().flatten() / grid.format().hi)  # 0.5 * 2**exponent
    return (1 - exponent).int()

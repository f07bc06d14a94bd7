# SPDX-License-Identifier: Apache-2.0
"""Sums over a stream of values: how alike two tensors are, how many values a format clips, a histogram."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint

HISTOGRAM_BINS = 256
"""Bins of a histogram, half of them below zero."""
LEAST_ENERGY = 1e-300
"""Stands for no energy where a ratio has to be a number."""


@dataclass
class Likeness:
    """A tensor and what rounding makes of it, as sums in float64.

    Attributes:
        signal: ``sum x**2`` of the reference.
        noise: ``sum (y - x)**2``.
        dot: ``sum x y``.
        energy: ``sum y**2``.
    """

    signal: float = 0.0
    noise: float = 0.0
    dot: float = 0.0
    energy: float = 0.0

    def update(self, x: Tensor, y: Tensor) -> None:
        """Take in a reference `x` [...] and its rounded form `y` [...]."""
        x, y = x.double(), y.double()
        self.signal += float(x.square().sum())
        self.noise += float((y - x).square().sum())
        self.dot += float((x * y).sum())
        self.energy += float(y.square().sum())

    @property
    def sqnr_db(self) -> float:
        """``10 log10(signal / noise)``; infinity without noise, minus infinity where noise meets no signal."""
        return decibels(self.signal, self.noise)

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two; 1 if both are zero, 0 if one is."""
        if self.signal == self.energy == 0:
            return 1.0
        product = math.sqrt(self.signal) * math.sqrt(self.energy)
        return min(max(self.dot / product, -1.0), 1.0) if product > 0 else 0.0


def decibels(signal: float, noise: float) -> float:
    """Return the ratio of two energies in dB; infinity for no noise, minus infinity for noise without signal."""
    if noise == 0:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(noise)) if signal > 0 else -math.inf


def finite_decibels(signal: float, noise: float) -> float:
    """Return `decibels` of energies of at least `LEAST_ENERGY`: a number that can be averaged and compared."""
    return decibels(max(signal, LEAST_ENERGY), max(noise, LEAST_ENERGY))


@dataclass
class Clipping:
    """Values that leave a format by more than half a step, and the codes in use.

    Attributes:
        fmt: The format.
        count: Values seen.
        low: Of these, below the format.
        high: Of these, above it.
        smallest: Smallest code in use.
        largest: Largest code in use.
    """

    fmt: FixedPoint
    count: int = 0
    low: int = 0
    high: int = 0
    smallest: int = 1 << 16
    largest: int = -(1 << 16)

    def update(self, exact: Tensor, rounded: Tensor) -> None:
        """Take in values before rounding [...] and after it [...]."""
        step = self.fmt.step
        self.count += exact.numel()
        self.low += int((exact < (self.fmt.lo - 0.5) * step).sum())
        self.high += int((exact > (self.fmt.hi + 0.5) * step).sum())
        lo, hi = (int(v) for v in torch.stack(rounded.aminmax()).double() / step)
        self.smallest, self.largest = min(self.smallest, lo), max(self.largest, hi)

    @property
    def low_share(self) -> float:
        """Share of values below the format."""
        return self.low / max(self.count, 1)

    @property
    def high_share(self) -> float:
        """Share of values above the format."""
        return self.high / max(self.count, 1)

    @property
    def unused(self) -> float:
        """Share of the format's codes outside the range from the smallest to the largest one in use."""
        return 1 - max(self.largest - self.smallest + 1, 0) / (1 << self.fmt.bits)


@dataclass
class Histogram:
    """Counts of values in bins around zero whose width, a power of two, doubles when a value lies outside.

    Attributes:
        width: Width of a bin; bin i holds ``[(i - HISTOGRAM_BINS / 2) * width, ... + width)``.
        counts: [HISTOGRAM_BINS].
    """

    width: float
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(HISTOGRAM_BINS, np.int64))

    @classmethod
    def around(cls, fmt: FixedPoint) -> Histogram:
        """Return an empty histogram of twice the range of a format."""
        return cls(math.ldexp(2.0 * (fmt.hi + 1), -fmt.frac) / (HISTOGRAM_BINS // 2))

    def update(self, x: Tensor) -> None:
        """Take in finite values [...]."""
        half = HISTOGRAM_BINS // 2
        values = x.detach().double().reshape(-1).numpy()
        largest = float(np.abs(values).max(initial=0.0))
        while largest >= half * self.width:
            inner = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate([np.zeros(half // 2, np.int64), inner, np.zeros(half // 2, np.int64)])
            self.width *= 2
        bins = np.floor(values / self.width).astype(np.int64) + half
        self.counts = self.counts + np.bincount(bins, minlength=HISTOGRAM_BINS)

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """[HISTOGRAM_BINS + 1] borders of the bins."""
        return np.asarray((np.arange(HISTOGRAM_BINS + 1) - HISTOGRAM_BINS // 2) * self.width, np.float64)

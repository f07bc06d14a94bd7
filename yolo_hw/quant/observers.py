# SPDX-License-Identifier: Apache-2.0
"""Statistics of a tensor over the calibration images, and the choice of fraction bits from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from yolo_hw.fixedpoint import MAX_ABS_FRAC, FixedPoint, Overflow, Rounding, round_real
from yolo_hw.ops import fake_quant_pow2
from yolo_hw.quant.config import Observer
from yolo_hw.quant.divergence import CodeHistogram

NUM_CANDIDATES = 6
"""Fraction bits tried: from no clipping to a range 2**5 times smaller."""

_HISTOGRAM_BINS = 4096


@dataclass
class RangeStatistics:
    """Smallest and largest value seen, zero included."""

    lo: float = 0.0
    hi: float = 0.0

    def update(self, x: Tensor) -> None:
        """Take in one more batch."""
        lo, hi = x.aminmax()
        self.lo = min(self.lo, float(lo))
        self.hi = max(self.hi, float(hi))

    def merge(self, other: RangeStatistics) -> None:
        """Take in the range of another tensor."""
        self.lo, self.hi = min(self.lo, other.lo), max(self.hi, other.hi)


def finest_frac(lo: float, hi: float, bits: int, signed: bool, rounding: Rounding = Rounding.HALF_UP) -> int:
    """Return the largest frac with which no value in [lo, hi] leaves the format; bits - 1 for an all-zero tensor.

    With half_up a value leaves it that is more than half a step outside, whatever the datapath does to those before it.
    Where these wrap, `rounding` has to be the datapath's.
    """
    fmt = FixedPoint(bits, 0, signed)
    if lo == 0 and hi == 0:
        return bits - 1
    fracs = np.arange(MAX_ABS_FRAC // 2, -MAX_ABS_FRAC // 2 - 1, -1)
    lowest, highest = round_real(np.ldexp([[lo], [hi]], fracs), rounding)
    fits = (fmt.lo <= lowest) & (highest <= fmt.hi)
    return int(fracs[fits.argmax() if fits.any() else -1])


class CandidateStatistics:
    """How well each candidate number of fraction bits represents a group of tensors.

    The candidates are ``base, base + 1, ...``; the first clips nothing. They are judged with the rounding and overflow
    of the datapath, since a value that wraps does far more harm than one that saturates.
    """

    def __init__(
        self,
        base: int,
        bits: int,
        signed: bool,
        extreme: float,
        *,
        rounding: Rounding = Rounding.HALF_UP,
        overflow: Overflow = Overflow.SATURATE,
    ) -> None:
        """Start with the coarsest candidate `base` and the largest magnitude `extreme` of the group."""
        self.rounding = rounding
        self.overflow = overflow
        self.formats = [FixedPoint(bits, min(base + i, MAX_ABS_FRAC), signed) for i in range(NUM_CANDIDATES)]
        self.squared_error = [0.0] * NUM_CANDIDATES
        self.dot = [0.0] * NUM_CANDIDATES
        self.norm_q = [0.0] * NUM_CANDIDATES
        self.norm_x = 0.0
        self.extreme = extreme
        self.histogram = torch.zeros(_HISTOGRAM_BINS, dtype=torch.float64)
        self.cells = CodeHistogram(self.formats, rounding)

    @classmethod
    def around(
        cls, seen: RangeStatistics, bits: int, signed: bool, rounding: Rounding, overflow: Overflow
    ) -> CandidateStatistics:
        """Return the statistics of a group with these ranges."""
        ends = rounding if overflow is Overflow.WRAP else Rounding.HALF_UP
        base = finest_frac(seen.lo, seen.hi, bits, signed, ends)
        return cls(base, bits, signed, max(seen.hi, -seen.lo), rounding=rounding, overflow=overflow)

    def rounded(self, x: Tensor) -> list[Tensor]:
        """Return `x` in the grid of every candidate."""
        return [fake_quant_pow2(x, fmt, self.rounding, self.overflow) for fmt in self.formats]

    def update(self, x: Tensor, observer: Observer) -> None:
        """Take in one batch of values."""
        if observer is Observer.KL:
            self.cells.update(x)
        elif observer is Observer.PERCENTILE:
            self.histogram += torch.histc(x.abs().float(), _HISTOGRAM_BINS, 0, self.extreme).double()
        elif observer is not Observer.MAX:
            self.compare(x, self.rounded(x))

    def compare(self, x: Tensor, candidates: list[Tensor]) -> None:
        """Take in one batch of reference values and what each candidate makes of them."""
        self.norm_x += float((x.double() ** 2).sum())
        for i, q in enumerate(candidates):
            self.squared_error[i] += float(((q - x).double() ** 2).sum())
            self.dot[i] += float((q * x).double().sum())
            self.norm_q[i] += float((q.double() ** 2).sum())

    def choose(self, observer: Observer, percentile: float) -> FixedPoint:
        """Return the best format under `observer`; the coarser one if two are equally good, or all values zero."""
        if self.extreme == 0:
            return self.formats[0]
        if observer is Observer.MSE:
            return self.formats[min(range(NUM_CANDIDATES), key=lambda i: self.squared_error[i])]
        if observer is Observer.COSINE:
            return self.formats[max(range(NUM_CANDIDATES), key=self._cosine)]
        if observer is Observer.KL:
            return min(self.formats, key=lambda fmt: self.cells.divergence(fmt, self.overflow))
        if observer is Observer.PERCENTILE:
            limit = self._quantile(percentile / 100)
            fitting = [f for f in self.formats if limit <= (f.hi + 0.5) * f.step]
            return fitting[-1] if fitting else self.formats[0]
        return self.formats[0]

    def _cosine(self, i: int) -> float:
        product = math.sqrt(self.norm_x * self.norm_q[i])
        return self.dot[i] / product if product > 0 else 0.0

    def _quantile(self, q: float) -> float:
        total = float(self.histogram.sum())
        if total == 0:
            return self.extreme
        reached = torch.nonzero(self.histogram.cumsum(0) >= q * total)
        return float(reached[0] + 1) / _HISTOGRAM_BINS * self.extreme

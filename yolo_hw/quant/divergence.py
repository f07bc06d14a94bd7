# SPDX-License-Identifier: Apache-2.0
"""The KL criterion of TensorRT for power-of-two steps: which format keeps most of a tensor's distribution.

The values are counted in the cells of a grid finer than every candidate. The reference P holds the counts inside the
candidate's range, with everything outside added to its two ends, as clipping does. The candidate Q has one number per
code: the counts inside the range without what was clipped, spread evenly over those cells of the code that P uses. The
divergence of the two is large where a step is too coarse (a code averages what differs) and where clipping piles up
values (P's ends hold what Q lacks).

Three points that the literature leaves open:

* Signed tensors are counted by signed code, not by magnitude, against the range [-2**(bits-1), 2**(bits-1) - 1];
  unsigned ones from 0. Clipping is seen at either end.
* Exact zeros are not counted: zero is a code of every candidate, and behind a relu its mass would hide all others.
* A cell that only clipped values reach has no mass in Q, and the divergence would be infinite. Q is mixed with
  `SKEW` of P (Lee's skew divergence), so that it costs in proportion to what was clipped.

References:
    Migacz, "8-bit Inference with TensorRT", GTC 2017 (slides 29 to 41: the calibration algorithm).
    Lee, "Measures of Distributional Similarity", ACL 1999 (skew divergence).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint, IntArray, Overflow, Rounding, overflow, round_shift
from yolo_hw.ops.fake_quant_pow2 import quantise_codes
from yolo_hw.quant.config import QuantConfig

FINE_BITS = 14
"""Word length of the counting grid at most: 2**14 cells. Beyond 9 bits the finest candidates' own rounding is below
its resolution, and only clipping counts against them."""

SKEW = 0.01
"""Share of P in the distribution that P is compared with."""


class CodeHistogram:
    """Counts of a tensor's values in a grid that every candidate format divides."""

    def __init__(self, formats: Sequence[FixedPoint], rounding: Rounding) -> None:
        """Prepare to count.

        Args:
            formats: Candidates of one word length, coarsest first; the first clips nothing.
            rounding: Rounding of values to codes.
        """
        base = formats[0]
        bits = min(base.bits + formats[-1].frac - base.frac, FINE_BITS)
        self.cells = FixedPoint(bits, base.frac + bits - base.bits, base.signed)
        self.rounding = rounding
        self.counts = torch.zeros(1 << bits, dtype=torch.int64)

    def update(self, x: Tensor) -> None:
        """Count the values of `x` that are not zero; [...] in any floating dtype."""
        values = x[x != 0]
        codes = quantise_codes(values, self.cells, self.rounding).long() - self.cells.lo
        self.counts += torch.bincount(codes, minlength=len(self.counts))

    def divergence(self, fmt: FixedPoint, mode: Overflow = Overflow.SATURATE) -> float:
        """Return the skew divergence of the candidate `fmt` in nats: at least 0, infinite if `mode` would wrap."""
        counts = self.counts.numpy().astype(np.float64)
        codes = round_shift(np.arange(self.cells.lo, self.cells.hi + 1), self.cells.frac - fmt.frac, self.rounding)
        kept = overflow(codes, fmt, Overflow.SATURATE if mode is Overflow.WRAP else mode) == codes
        if mode is Overflow.WRAP and counts[~kept].any():
            return float("inf")
        return _divergence(counts, codes, kept)


def _divergence(counts: npt.NDArray[np.float64], codes: IntArray, kept: npt.NDArray[np.bool_]) -> float:
    if not counts.any():
        return 0.0
    first, last = np.flatnonzero(kept)[[0, -1]]
    p = counts[first : last + 1].copy()
    inside = p.sum()
    if inside == 0:
        return float("inf")
    used_inside = p.copy()
    p[0] += counts[:first].sum()
    p[-1] += counts[last + 1 :].sum()
    code = codes[first : last + 1] - codes[first]
    used = p > 0
    total = np.bincount(code, used_inside)
    cells = np.bincount(code, used)
    q = np.where(used, (total / np.maximum(cells, 1))[code], 0.0) / inside
    p /= p.sum()
    mixed = SKEW * p + (1 - SKEW) * q
    return float(np.sum(p[used] * np.log(p[used] / mixed[used])))


def row_divergences(
    rows: npt.NDArray[np.float64], base: IntArray, fmt: FixedPoint, count: int, config: QuantConfig
) -> npt.NDArray[np.float64]:
    """Return the divergences of stored rows, such as the weights of every output channel.

    Args:
        rows: [K, L].
        base: [K] fraction bits with which no value of a row is clipped.
        fmt: Word length and sign.
        count: Candidates of each row: ``base, base + 1, ...``.
        config: Rounding and overflow.

    Returns:
        [count, K].
    """
    out = np.zeros((count, len(rows)))
    for k, row in enumerate(rows):
        formats = [replace(fmt, frac=int(base[k]) + i) for i in range(count)]
        histogram = CodeHistogram(formats, config.rounding)
        histogram.update(torch.from_numpy(row))
        out[:, k] = [histogram.divergence(candidate, config.overflow) for candidate in formats]
    return out

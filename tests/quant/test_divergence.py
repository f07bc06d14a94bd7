# SPDX-License-Identifier: Apache-2.0
"""The KL observer against its definition, worked out value by value on stored samples."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding, quantise, round_shift
from yolo_hw.quant import Observer
from yolo_hw.quant.divergence import FINE_BITS, SKEW, CodeHistogram
from yolo_hw.quant.observers import CandidateStatistics, RangeStatistics, finest_frac


def samples(kind, count=4000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, generator=generator)
    return {
        "normal": normal,
        "relu": normal.clamp_min(0),
        "heavy": normal / torch.rand(count, generator=generator).clamp_min(1e-3),
        "lopsided": torch.where(normal < 0, normal / 16, normal),
        "constant": torch.full((count,), 0.3),
        "zero": torch.zeros(count),
    }[kind]


def formats_of(x, bits, signed):
    base = finest_frac(min(float(x.min()), 0.0), max(float(x.max()), 0.0), bits, signed)
    return [FixedPoint(bits, base + i, signed) for i in range(6)]


def brute_force(x, formats, fmt, rounding):
    """The definition, with dictionaries over the cells that occur."""
    bits = min(fmt.bits + 5, FINE_BITS)
    fine = FixedPoint(bits, formats[0].frac + bits - fmt.bits, fmt.signed)
    cells = Counter(quantise(x[x != 0].double().numpy(), fine, rounding).tolist())
    if not cells:
        return 0.0
    grid = np.arange(fine.lo, fine.hi + 1)
    code = dict(zip(grid.tolist(), round_shift(grid, fine.frac - fmt.frac, rounding).tolist(), strict=True))
    range_of_cells = [cell for cell in code if fmt.lo <= code[cell] <= fmt.hi]
    first, last = min(range_of_cells), max(range_of_cells)
    inside = {cell: n for cell, n in cells.items() if first <= cell <= last}
    if not inside:
        return math.inf
    p = Counter(inside)
    for cell, n in cells.items():
        if cell not in inside:
            p[first if cell < first else last] += n
    q = {}
    for cell in p:
        sharing = [other for other in p if code[other] == code[cell]]
        q[cell] = sum(inside.get(other, 0) for other in sharing) / len(sharing)
    total, kept = sum(p.values()), sum(inside.values())
    return sum(
        n / total * math.log((n / total) / (SKEW * n / total + (1 - SKEW) * q[cell] / kept)) for cell, n in p.items()
    )


@pytest.mark.parametrize("bits", [2, 4, 8, 15])
@pytest.mark.parametrize("kind", ["normal", "relu", "heavy", "lopsided", "constant"])
@pytest.mark.parametrize("rounding", [Rounding.HALF_UP, Rounding.FLOOR])
def test_every_candidate_has_the_divergence_of_the_definition(bits, kind, rounding):
    x = samples(kind, 150)
    formats = formats_of(x, bits, signed=kind != "relu")
    histogram = CodeHistogram(formats, rounding)
    for part in x.chunk(3):
        histogram.update(part)
    for fmt in formats:
        assert histogram.divergence(fmt) == pytest.approx(brute_force(x, formats, fmt, rounding), abs=1e-12)


def choose(x, bits, signed=True, overflow=Overflow.SATURATE, parts=1):
    ranges = RangeStatistics()
    ranges.update(x)
    base = finest_frac(ranges.lo, ranges.hi, bits, signed)
    statistics = CandidateStatistics(base, bits, signed, max(ranges.hi, -ranges.lo), overflow=overflow)
    for part in x.chunk(parts):
        statistics.update(part, Observer.KL)
    return statistics.choose(Observer.KL, 99.99).frac - base


def test_a_heavy_tail_is_clipped_and_a_uniform_distribution_is_not():
    assert choose(samples("heavy"), 8) >= 2
    assert choose(torch.linspace(-1, 1, 4001), 8) == 0


def test_nothing_is_clipped_where_clipping_would_wrap():
    assert choose(samples("heavy"), 8, overflow=Overflow.WRAP) == 0


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_zeros_count_for_nothing(bits):
    x = samples("relu")
    assert choose(x, min(bits, 15), signed=False) == choose(x[x > 0], min(bits, 15), signed=False)
    assert choose(samples("zero"), bits) == 0


def test_batches_make_no_difference():
    x = samples("lopsided")
    assert choose(x, 8) == choose(x, 8, parts=9)


def test_sixteen_bits_clip_nothing_that_matters():
    """Their rounding is finer than the counting grid; any clipping is loss without gain."""
    assert choose(samples("normal"), 16) == 0


def test_memory_is_that_of_the_grid():
    x = samples("normal")
    histogram = CodeHistogram(formats_of(x, 16, signed=True), Rounding.HALF_UP)
    histogram.update(x)
    assert histogram.counts.numel() == 1 << FINE_BITS
    assert int(histogram.counts.sum()) == int(np.count_nonzero(x.numpy()))

# SPDX-License-Identifier: Apache-2.0
"""Observers on constructed data whose best format is known."""

import pytest
import torch

from yolo_hw.quant import Observer
from yolo_hw.quant.observers import CandidateStatistics, RangeStatistics, finest_frac

OUTLIER = 100.0


def choose(x, observer, *, bits=8, percentile=99.0, parts=1):
    ranges = RangeStatistics()
    for part in x.chunk(parts):
        ranges.update(part)
    base = finest_frac(ranges.lo, ranges.hi, bits, True)
    statistics = CandidateStatistics(base, bits, True, max(ranges.hi, -ranges.lo))
    for part in x.chunk(parts):
        statistics.update(part, observer)
    return statistics.choose(observer, percentile)


def with_outlier(value, count):
    return torch.cat([torch.full((count,), value), torch.tensor([OUTLIER])])


@pytest.mark.parametrize(
    ("lo", "hi", "bits", "signed", "frac"),
    [
        (0, 127, 8, True, 0),
        (0, 127.4, 8, True, 0),
        (0, 127.5, 8, True, -1),
        (-128, 0, 8, True, 0),
        (-128.6, 0, 8, True, -1),
        (0, 1, 8, True, 6),
        (-1, 0, 8, True, 7),
        (0, 1, 8, False, 7),
        (0, 0.99, 8, False, 8),
        (0, 7, 4, True, 0),
        (0, 1000, 4, True, -8),
        (0, 0, 8, True, 7),
    ],
)
def test_the_finest_step_without_clipping(lo, hi, bits, signed, frac):
    """128 is no signed 8-bit code, so 1.0 takes 6 fraction bits and -1.0 takes 7."""
    assert finest_frac(lo, hi, bits, signed) == frac


def test_ranges_hold_zero_and_merge():
    ranges = RangeStatistics()
    ranges.update(torch.tensor([2.0, 3.0]))
    assert (ranges.lo, ranges.hi) == (0, 3)
    other = RangeStatistics(-1.0, 1.0)
    other.merge(ranges)
    assert (other.lo, other.hi) == (-1, 3)


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize(
    ("observer", "frac"),
    [
        (Observer.MAX, 0),  # 100 fits 127, 200 does not
        (Observer.PERCENTILE, 5),  # all but one value below 0.31, the finest of six candidates
        # Squared errors over 100000 values 0.3 and one 100, by fraction bits 0..3:
        # 9000 + 0,  4000 + 36.5**2 = 5332,  250 + 68.25**2 = 4908,  250 + 84.1**2 = 7327
        (Observer.MSE, 2),
        # Cosine: 0.726, 0.909, 0.909 (the rounded values are halved, the angle is the same), 0.818; the coarser wins
        (Observer.COSINE, 1),
    ],
)
def test_each_observer_on_an_outlier(observer, frac, parts):
    fmt = choose(with_outlier(0.3, 100_000), observer, parts=parts)
    assert (fmt.bits, fmt.frac) == (8, frac)


@pytest.mark.parametrize(("percentile", "frac"), [(100.0, 0), (99.9, 0), (99.0, 5)])
def test_percentiles_clip_no_more_than_they_say(percentile, frac):
    """One value in 500 is the outlier: 99.9 percent must keep it."""
    assert choose(with_outlier(0.3, 499), Observer.PERCENTILE, percentile=percentile).frac == frac


@pytest.mark.parametrize("observer", [Observer.MAX, Observer.MSE, Observer.COSINE])
def test_values_on_a_grid_get_that_grid(observer):
    """Multiples of 1/4 up to 20: with 2 fraction bits nothing is lost, with 3 the largest are clipped."""
    x = torch.arange(-80, 81) / 4
    assert choose(x, observer).frac == 2


@pytest.mark.parametrize("observer", list(Observer))
def test_an_all_zero_tensor_has_a_format(observer):
    assert choose(torch.zeros(10), observer).frac == 7


def test_fewer_bits_take_a_coarser_step():
    x = torch.linspace(-1, 1, 1001)
    fracs = [choose(x, Observer.MAX, bits=bits).frac for bits in (4, 5, 6, 7, 8, 16)]
    assert fracs == [2, 3, 4, 5, 6, 14]

# SPDX-License-Identifier: Apache-2.0
"""Streaming observers choose what brute force on the stored samples chooses."""

import numpy as np
import pytest
import torch

from yolo_hw.fixedpoint import FixedPoint, dequantise, quantise
from yolo_hw.quant import Observer, QuantConfig
from yolo_hw.quant.folded import FoldedConv
from yolo_hw.quant.observers import CandidateStatistics, RangeStatistics, finest_frac
from yolo_hw.quant.weights import NUM_CANDIDATES, ConvContext, quantise_conv

KINDS = ("normal", "relu", "heavy", "constant", "negative", "zero")


def samples(kind, seed):
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(600)
    return {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "heavy": normal / np.maximum(rng.random(600), 1e-3),
        "constant": np.full(600, 0.7),
        "negative": -np.abs(normal),
        "zero": np.zeros(600),
    }[kind].astype(np.float32)


def streamed(x, observer, bits, signed):
    ranges = RangeStatistics()
    for part in np.array_split(x, 5):
        ranges.update(torch.from_numpy(part))
    base = finest_frac(ranges.lo, ranges.hi, bits, signed)
    statistics = CandidateStatistics(base, bits, signed, max(ranges.hi, -ranges.lo))
    for part in np.array_split(x, 5):
        statistics.update(torch.from_numpy(part), observer)
    return base, statistics.choose(observer, 99.0)


def rounded(x, fmt):
    return dequantise(quantise(x, fmt), fmt.frac)


def loss(x, fmt, observer):
    q = rounded(x.astype(np.float64), fmt)
    if observer is Observer.MSE:
        return ((q - x) ** 2).sum()
    norm = np.linalg.norm(q) * np.linalg.norm(x.astype(np.float64))
    return -(q @ x) / norm if norm else 0.0


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("kind", KINDS)
def test_the_step_is_the_best_of_the_candidates(kind, bits):
    x = samples(kind, bits)
    for signed in {True, bool((x < 0).any()) or bits == 16}:
        for observer in (Observer.MSE, Observer.COSINE):
            base, fmt = streamed(x, observer, bits, signed)
            candidates = [FixedPoint(bits, base + i, signed) for i in range(6)]
            losses = [loss(x, candidate, observer) for candidate in candidates]
            best = min(losses)
            assert losses[candidates.index(fmt)] <= best + 1e-6 * abs(best)  # float32 sums against float64


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("kind", KINDS)
def test_max_is_the_finest_step_that_clips_nothing(kind, bits):
    x = samples(kind, bits)
    signed = bool((x < 0).any()) or bits == 16
    _, fmt = streamed(x, Observer.MAX, bits, signed)
    clipless = [f for f in range(-40, 33) if np.array_equal(rounded(x, FixedPoint(bits, f, signed)), unclipped(x, f))]
    assert fmt.frac == (max(clipless) if x.any() else bits - 1)


def unclipped(x, frac):
    return np.floor(np.ldexp(x.astype(np.float64), frac) + 0.5) * 2.0**-frac


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_percentile_clips_at_most_its_share(kind, bits):
    x = samples(kind, bits)
    signed = bool((x < 0).any()) or bits == 16
    base, fmt = streamed(x, Observer.PERCENTILE, bits, signed)
    beyond = np.abs(x) > (fmt.hi + 0.5) * fmt.step
    assert beyond.mean() <= 0.01
    finer = FixedPoint(bits, fmt.frac + 1, signed)
    bound = np.abs(x).max() / 4096  # the histogram's resolution
    if fmt.frac < base + 5 and x.any():
        assert (np.abs(x) > (finer.hi + 0.5) * finer.step - bound).mean() > 0.01


@pytest.mark.parametrize("observer", list(Observer))
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_every_channel_of_the_weights_is_judged_by_itself(observer, bits):
    rng = np.random.default_rng(bits)
    weight = rng.standard_normal((6, 8, 3, 3)) * 2.0 ** -np.arange(6).reshape(-1, 1, 1, 1)
    weight[4] = 0
    around = ConvContext(FixedPoint(8, 7), FixedPoint(8, 4), 0)
    config = QuantConfig(w_bits=bits, w_observer=observer)
    together, _ = quantise_conv(conv(weight), around, config)
    for k in (0, 1, 2, 3, 5):
        alone, _ = quantise_conv(conv(weight[k : k + 1]), around, config)
        assert alone.w_frac[0] == together.w_frac[k]
        np.testing.assert_array_equal(alone.weight[0], together.weight[k])
    if observer is Observer.MSE:
        for k in (0, 1, 2, 3, 5):
            base = finest_frac(weight[k].min(), weight[k].max(), bits, True)
            losses = [loss(weight[k].ravel(), FixedPoint(bits, base + i), observer) for i in range(NUM_CANDIDATES)]
            assert together.w_frac[k] == base + int(np.argmin(losses))


def conv(weight):
    from yolo_hw.darknet.layers import Shape
    from yolo_hw.geometry import Window

    return FoldedConv(
        name="conv", inputs=("x",), shape=Shape(len(weight), 4, 4), weight=weight, bias=np.zeros(len(weight)),
        window=Window((3, 3)),
    )  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""Proof that no accumulator overflows, from the real weights and the input formats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yolo_hw.fixedpoint import IntArray, signed_bits
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.nodes import Node, TensorInfo


@dataclass(frozen=True)
class AccumulatorBound:
    """Range that contains the accumulator and every partial sum of it, in any order of summation.

    Attributes:
        lo: Smallest value.
        hi: Largest value.
        channel: Output channel that needs most bits.
    """

    lo: int
    hi: int
    channel: int

    @property
    def bits(self) -> int:
        """Two's-complement bits that hold the range."""
        return signed_bits(self.lo, self.hi)


def accumulator_bound(node: Node, inputs: list[TensorInfo]) -> AccumulatorBound | None:
    """Return the bound of a computing node's accumulators, None for a moving node.

    For a convolution with input codes in [a, b], a <= 0 <= b, every term ``w * x`` lies between ``min(w a, w b) <= 0``
    and ``max(w a, w b) >= 0``, so any partial sum lies between the sum of the negative and the sum of the positive
    ends; the bias counts on its own side.
    """
    ranges = [(min(info.fmt.lo, 0), info.fmt.hi) for info in inputs]
    if isinstance(node, N.Conv2d):
        bottom, top = conv_sums(node.weight, node.bias, *ranges[0])
        return AccumulatorBound(int(bottom.min()), int(top.max()), int(np.maximum(top, -bottom - 1).argmax()))
    if isinstance(node, N.Add):
        shifted = [(lo << s, hi << s) for (lo, hi), s in zip(ranges, node.alignment(inputs), strict=True)]
        return AccumulatorBound(sum(lo for lo, _ in shifted), sum(hi for _, hi in shifted), 0)
    if isinstance(node, N.Mul):
        ends = [a * b for a in ranges[0] for b in ranges[1]]
        return AccumulatorBound(min(ends), max(ends), 0)
    if isinstance(node, N.AvgPool):
        count = inputs[0].shape.h * inputs[0].shape.w
        return AccumulatorBound(ranges[0][0] * count, ranges[0][1] * count, 0)
    return None


def conv_sums(weight: IntArray, bias: IntArray, lo: int, hi: int) -> tuple[IntArray, IntArray]:
    """Return the smallest and the largest sum of every output channel.

    Args:
        weight: [K, ...] codes.
        bias: [K] codes.
        lo: Smallest input code, at most 0.
        hi: Largest input code, at least 0.

    Returns:
        [K] and [K], which contain every partial sum, too.
    """
    positive, negative = weight_sums(weight)
    return term_sums(positive, negative, lo, hi, bias)


def weight_sums(weight: IntArray) -> tuple[IntArray, IntArray]:
    """Return the sums [K] of the positive and of the negative weights of every output channel."""
    rows = weight.reshape(weight.shape[0], -1)
    return np.asarray(np.where(rows > 0, rows, 0).sum(1)), np.asarray(np.where(rows < 0, rows, 0).sum(1))


def term_sums(positive: IntArray, negative: IntArray, lo: int, hi: int, bias: IntArray) -> tuple[IntArray, IntArray]:
    """Return what `conv_sums` does, from the result of `weight_sums`."""
    top = positive * hi + negative * lo + np.maximum(bias, 0)
    bottom = positive * lo + negative * hi + np.minimum(bias, 0)
    return np.asarray(bottom, np.int64), np.asarray(top, np.int64)

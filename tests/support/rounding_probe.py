# SPDX-License-Identifier: Apache-2.0
"""A single convolution whose accumulators are spread evenly, to measure how often two roundings differ."""

from __future__ import annotations

import numpy as np

from yolo_hw.darknet.layers import Shape
from yolo_hw.fixedpoint import FixedPoint, IntArray, Rounding
from yolo_hw.geometry import Window
from yolo_hw.intgraph import INPUT, Activation, IntGraph, NumericContract, Output, TensorInfo, check_graph
from yolo_hw.intgraph import nodes as N

SIDE = 64
CHANNELS = 4


def rounding_probe(rounding: Rounding, shift: int, act: Activation | None = None, bits: int = 16) -> IntGraph:
    """Return a 1 x 1 convolution of signed 8-bit codes with odd weights and the given output shift."""
    rng = np.random.default_rng(shift)
    weight = 2 * rng.integers(-20, 21, (8, CHANNELS, 1, 1)) + 1
    conv = N.Conv2d(
        name="conv", inputs=(INPUT,), weight=weight, w_frac=np.full(8, shift), bias=np.zeros(8, np.int64), w_bits=8,
        window=Window((1, 1)), act=act or N.LINEAR,
    )  # fmt: skip
    tensors = {
        INPUT: TensorInfo(Shape(CHANNELS, SIDE, SIDE), FixedPoint(8, 0)),
        "conv": TensorInfo(Shape(8, SIDE, SIDE), FixedPoint(bits, 0)),
    }
    graph = IntGraph("probe", NumericContract(rounding), (conv,), tensors, (Output("conv"),))
    check_graph(graph)
    return graph


def probe_codes(seed: int = 0) -> IntArray:
    """Return input codes [C, H, W] anywhere in the range."""
    return np.random.default_rng(seed).integers(-128, 128, (CHANNELS, SIDE, SIDE))

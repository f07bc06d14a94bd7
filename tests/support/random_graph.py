# SPDX-License-Identifier: Apache-2.0
"""Seeded random integer graphs that hold every kind of node, and inputs for them. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from support.graph_builder import HEAD, GraphBuilder, append_conv
from support.graph_recipes import RECIPES

from yolo_hw.darknet.layers import Shape
from yolo_hw.fixedpoint import IntArray, Overflow, Rounding
from yolo_hw.intgraph import INPUT, INPUT_FORMAT, IntGraph, NumericContract, TensorInfo
from yolo_hw.intgraph.nodes import LINEAR


def random_graph(
    seed: int,
    *,
    max_channels: int = 21,
    size: tuple[int, int] | None = None,
    bits: Sequence[int] = (4, 5, 6, 7, 8),
    rounding: Rounding = Rounding.HALF_UP,
    overflow: Overflow = Overflow.SATURATE,
) -> IntGraph:
    """Return a graph that passes `check_graph` and holds every node kind, activation kind and window kind.

    The image is 3-channel uint8 and is read by dense convolutions only; adds have at most four inputs, so that every
    implementation of a graph can run it. `bits` are the word lengths of weights and activations to draw from; with any
    above 8 the contract has 48-bit accumulators. `size` is the image's height and width.
    """
    rng = np.random.default_rng(seed)
    height, width = size or (int(rng.integers(5, 24)), int(rng.integers(5, 24)))
    contract = NumericContract(rounding, overflow, 32 if max(bits) <= 8 else 48)
    builder = GraphBuilder(rng, contract, max_channels, tuple(bits))
    builder.tensors[INPUT] = TensorInfo(Shape(3, height, width), INPUT_FORMAT)
    for _ in range(3):
        append_conv(builder, INPUT)
    recipes = [*RECIPES, *(RECIPES[i] for i in rng.integers(0, len(RECIPES), 4))]
    for i in rng.permutation(len(recipes)):
        recipes[i](builder, builder.pick())
    head = append_conv(builder, builder.pick(), channels=HEAD.channels, act=LINEAR)
    return builder.finish(f"random_{seed}", head)


def random_input(graph: IntGraph, seed: int) -> IntArray:
    """Return codes [C, H, W]: half of them anywhere in the input's range, half of them at its ends."""
    rng = np.random.default_rng(seed)
    info = graph.tensors[INPUT]
    anywhere = rng.integers(info.fmt.lo, info.fmt.hi + 1, info.shape)
    ends = np.where(rng.integers(0, 2, info.shape) == 0, info.fmt.lo, info.fmt.hi)
    return np.where(rng.integers(0, 2, info.shape) == 0, anywhere, ends).astype(np.int64)


def adversarial_inputs(graph: IntGraph) -> dict[str, IntArray]:
    """Return the inputs that drive sums and saturation to their ends."""
    info = graph.tensors[INPUT]
    parity = np.indices(info.shape).sum(0) % 2
    return {
        "all_min": np.full(info.shape, info.fmt.lo, np.int64),
        "all_max": np.full(info.shape, info.fmt.hi, np.int64),
        "checkerboard": np.where(parity == 0, info.fmt.lo, info.fmt.hi).astype(np.int64),
    }

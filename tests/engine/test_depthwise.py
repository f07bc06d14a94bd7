# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolutions of few channels, whose pixels share vectors, and of many, whose rows are cut in slices."""

import itertools

import numpy as np
import pytest
from support.graph_builder import GraphBuilder, append_conv
from support.random_graph import random_input

from yolo_hw.darknet.layers import Shape
from yolo_hw.geometry import Window
from yolo_hw.intgraph import INPUT, IntGraph, NumericContract, Output, TensorInfo, check_graph, run_outputs
from yolo_hw.intgraph.engine import Engine, engine_paths


def assert_same(channels, size, window, seed):
    b = GraphBuilder(np.random.default_rng(seed), NumericContract(), channels, (8,))
    b.tensors[INPUT] = TensorInfo(Shape(channels, *size), b.fmt())
    out = tuple((size[i] + 2 * window.pad[i] - window.extent(i)) // window.stride[i] + 1 for i in (0, 1))
    name = append_conv(b, INPUT, kind="depthwise", window=(window, out))
    graph = IntGraph("depthwise", b.contract, tuple(b.nodes), b.tensors, (Output(name),))
    check_graph(graph)
    codes = random_input(graph, seed)
    expected = run_outputs(graph, codes)[0]
    for path in engine_paths():
        found = Engine(graph, path=path, threads=1 + seed % 3).run(codes)[0]
        np.testing.assert_array_equal(found, expected, err_msg=f"{path} {channels} {size} {window}")


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8, 12, 16, 24])
@pytest.mark.parametrize("side", [3, 5])
def test_few_channels(channels, side):
    cases = itertools.product((0, 1, side // 2), (1, 2), (1, 2, 4), (side, 8, 12, 16, 40))
    for seed, (pad, stride_y, stride_x, width) in enumerate(cases):
        window = Window((side, side), (stride_y, stride_x), (pad, pad))
        assert_same(channels, (side + seed % 4, width), window, seed)


WINDOWS = (
    Window((3, 3), (1, 1), (1, 1)),
    Window((5, 5), (2, 2), (2, 2)),
    Window((3, 3), (1, 1), (2, 2), (2, 2)),
    Window((7, 1), (1, 1), (3, 0)),
)


@pytest.mark.parametrize("window", WINDOWS)
def test_many_channels_and_wide_maps(window):
    for seed, (channels, width) in enumerate([(513, 9), (130, 70), (64, 141), (17, 200)]):
        assert_same(channels, (7, width), window, seed)

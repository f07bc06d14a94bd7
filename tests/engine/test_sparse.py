# SPDX-License-Identifier: Apache-2.0
"""Convolutions with zero blocks of 16 output by 4 input channels, which the engine leaves out."""

from dataclasses import replace

import numpy as np
import pytest
from support.graph_builder import GraphBuilder, append_conv, random_window, same_size
from support.random_graph import random_input

from yolo_hw.darknet.layers import Shape
from yolo_hw.geometry import Window
from yolo_hw.intgraph import INPUT, IntGraph, NumericContract, Output, TensorInfo, check_graph, run_outputs
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.engine import Engine, engine_paths


def without_blocks(node: N.Conv2d, density: float, rng: np.random.Generator) -> N.Conv2d:
    """Return the convolution with a share of its 16x4 blocks; at least one goes unless density is 1."""
    k, c, r, s = node.weight.shape
    per_group = k // node.groups
    rows = np.arange(k) // per_group * -(-per_group // 16) + np.arange(k) % per_group // 16
    kept = rng.random((rows[-1] + 1, -(-c // 4), r, s)) < density
    mask = kept[rows][:, np.arange(c) // 4]
    return replace(node, weight=np.where(mask, node.weight, 0))


def graph_of(seed: int, density: float, *, kind: str = "dense", pools: bool = False, shape=None) -> IntGraph:
    rng = np.random.default_rng(seed)
    b = GraphBuilder(rng, NumericContract(), 90, (8,))
    h, w = shape or (2 * b.number(1, 8), 2 * b.number(1, 22))
    b.tensors[INPUT] = TensorInfo(Shape(b.number(3, 70), h, w), b.fmt())
    window = same_size(b.tensors[INPUT].shape) if pools else random_window(b, b.tensors[INPUT].shape)
    name = append_conv(b, INPUT, kind=kind, window=window, act=N.LINEAR if pools else None)
    b.nodes[0] = without_blocks(b.nodes[0], density, rng)
    if pools:
        c = b.tensors[name].shape.c
        pool = N.MaxPool(name="pool", inputs=(name,), window=Window((2, 2), (2, 2)))
        name = b.emit(pool, (c, h // 2, w // 2), b.tensors[name].fmt)
    graph = IntGraph(f"sparse_{seed}", b.contract, tuple(b.nodes), b.tensors, (Output(name),))
    check_graph(graph)
    return graph


def assert_equal_outputs(graph, seed):
    codes = random_input(graph, seed)
    expected = run_outputs(graph, codes)
    for path in engine_paths():
        for one, other in zip(Engine(graph, path=path, threads=1 + seed % 2).run(codes), expected, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"{graph.name} {path}")


@pytest.mark.parametrize("density", [0.0, 0.05, 0.3, 0.6])
@pytest.mark.parametrize("kind", ["dense", "grouped"])
@pytest.mark.parametrize("seed", range(6))
def test_convolution_without_blocks(seed, kind, density):
    assert_equal_outputs(graph_of(seed, density, kind=kind), seed)


@pytest.mark.parametrize("seed", range(6))
def test_pool_behind_a_sparse_convolution(seed):
    assert_equal_outputs(graph_of(100 + seed, 0.2, pools=True), seed)


def test_every_width_of_a_map():
    for width in range(1, 40):
        assert_equal_outputs(graph_of(200 + width, 0.3, shape=(3, width)), width)


@pytest.mark.parametrize("path", engine_paths())
def test_zero_blocks_take_no_memory(path):
    graph = graph_of(300, 1.0, shape=(12, 12))
    conv = graph.nodes[0]
    dense = Engine(graph, path=path).memory["weights"]
    rng = np.random.default_rng(1)
    sparse = Engine(replace(graph, nodes=(without_blocks(conv, 0.25, rng),)), path=path).memory["weights"]
    assert sparse < 0.45 * dense

# SPDX-License-Identifier: Apache-2.0
"""The engine computes the codes of the numpy reference: every path, rounding, overflow, word length, thread count."""

from dataclasses import replace

import numpy as np
import pytest
from support.random_graph import adversarial_inputs, random_graph, random_input

from yolo_hw.darknet.layers import Shape
from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.geometry import Window
from yolo_hw.intgraph import INPUT, IntGraph, NumericContract, Output, TensorInfo, check_graph, execute, run_outputs
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.engine import Engine, engine_paths

WORD_LENGTHS = ((4, 5, 6, 7, 8), (8,), (8, 16), (16,), (2, 3))


def assert_same_codes(graph, codes, path, threads):
    found = Engine(graph, path=path, threads=threads, keep_all=True).run_all(codes)
    for name, expected in execute(graph, codes):
        np.testing.assert_array_equal(found[name], expected.codes, err_msg=f"{graph.name} {name} {path} {threads}")


@pytest.mark.parametrize("path", engine_paths())
@pytest.mark.parametrize("overflow", list(Overflow))
@pytest.mark.parametrize("rounding", list(Rounding))
def test_random_graphs(rounding, overflow, path):
    base = 1000 * list(Rounding).index(rounding) + 100 * list(Overflow).index(overflow)
    for i in range(3 * len(WORD_LENGTHS)):
        graph = random_graph(base + i, bits=WORD_LENGTHS[i % len(WORD_LENGTHS)], rounding=rounding, overflow=overflow)
        assert_same_codes(graph, random_input(graph, i), path, threads=1 + i % 2)


@pytest.mark.parametrize("path", engine_paths())
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_adversarial_inputs(path, threads):
    for seed, bits in enumerate(WORD_LENGTHS):
        graph = random_graph(9000 + seed, bits=bits, max_channels=37)
        for codes in adversarial_inputs(graph).values():
            assert_same_codes(graph, codes, path, threads)


def probes_of(graph: IntGraph, conv: N.Conv2d) -> IntGraph:
    """Return a graph of convolutions whose codes are 16-bit pieces of the accumulators of `conv`, lowest first."""
    x, out = graph.inputs_of(conv)[0], graph.output_of(conv)
    pieces = tuple(
        replace(conv, name=f"piece{i}", inputs=(INPUT,), w_frac=np.full(len(conv.bias), 16 * i), act=N.LINEAR)
        for i in range(graph.contract.acc_bits // 16)
    )
    fmt = FixedPoint(16, x.fmt.frac)
    tensors = {INPUT: x, **{piece.name: TensorInfo(out.shape, fmt) for piece in pieces}}
    contract = NumericContract(Rounding.FLOOR, Overflow.WRAP, graph.contract.acc_bits)
    probes = IntGraph("probes", contract, pieces, tensors, tuple(Output(piece.name) for piece in pieces))
    check_graph(probes)
    return probes


@pytest.mark.parametrize("path", engine_paths())
def test_accumulators_of_convolutions_bit_by_bit(path):
    """With wrap and shifts of 0, 16, 32 the output codes spell out the engine's own accumulators."""
    seen = set()
    for seed in range(12):
        graph = random_graph(seed, bits=WORD_LENGTHS[seed % len(WORD_LENGTHS)])
        maps = {INPUT: random_input(graph, seed)}
        for name, result in execute(graph, maps[INPUT]):
            maps[name] = result.codes
            node = graph.node(name)
            if not isinstance(node, N.Conv2d):
                continue
            pieces = Engine(probes_of(graph, node), path=path, threads=1).run(maps[node.inputs[0]])
            acc = sum((piece.astype(np.int64) & 0xFFFF) << (16 * i) for i, piece in enumerate(pieces))
            top = 1 << (graph.contract.acc_bits - 1)
            np.testing.assert_array_equal((acc ^ top) - top, result.acc, err_msg=f"{graph.name} {name}")
            seen.add("depthwise" if node.depthwise else "grouped" if node.groups > 1 else "dense")
    assert seen == {"depthwise", "grouped", "dense"}


def test_run_returns_the_outputs_in_order():
    graph = random_graph(5)
    codes = random_input(graph, 5)
    found = Engine(graph).run(codes)
    expected = run_outputs(graph, codes)
    assert len(found) == len(graph.outputs) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.int16
        np.testing.assert_array_equal(one, other)


def test_an_engine_keeps_nothing_of_earlier_images():
    graph = random_graph(6)
    engine = Engine(graph, threads=2)
    codes = [random_input(graph, seed) for seed in range(3)]
    for image in (*codes, *codes[::-1]):
        for one, other in zip(engine.run(image), run_outputs(graph, image), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("path", engine_paths())
def test_16_bit_products_whose_pair_sum_needs_33_bits(path):
    """Two products (-2**15)**2 sum to 2**31, which a multiply-add of int16 pairs in 32 bits cannot hold."""
    conv = N.Conv2d(
        name="conv",
        inputs=(INPUT,),
        weight=np.full((1, 2, 1, 1), -(1 << 15), np.int64),
        w_frac=np.array([16]),
        bias=np.array([0]),
        w_bits=16,
        window=Window((1, 1)),
    )
    fmt = FixedPoint(16, 0)
    tensors = {INPUT: TensorInfo(Shape(2, 1, 5), fmt), "conv": TensorInfo(Shape(1, 1, 5), fmt)}
    graph = IntGraph("pair", NumericContract(acc_bits=48), (conv,), tensors, (Output("conv"),))
    check_graph(graph)
    codes = np.full((2, 1, 5), -(1 << 15), np.int64)
    assert (Engine(graph, path=path).run(codes)[0] == (1 << 15) - 1).all()  # 2**31 >> 16 saturates
    assert_same_codes(graph, codes, path, 1)

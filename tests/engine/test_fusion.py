# SPDX-License-Identifier: Apache-2.0
"""Pools and additions that the engine computes inside a convolution: equal codes, and only where nothing else looks."""

import numpy as np
import pytest
from support.graph_builder import GraphBuilder, append_computed, append_conv, random_activation
from support.random_graph import random_input

from yolo_hw.darknet.layers import Shape
from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.geometry import Window
from yolo_hw.intgraph import INPUT, IntGraph, NumericContract, Output, TensorInfo, check_graph, run_outputs
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.engine import Engine, engine_paths

HALVING = Window((2, 2), (2, 2))


class Net:
    """A small network around convolutions with inputs of 2 to 40 channels and maps of an even size."""

    def __init__(self, seed, *, overflow=Overflow.SATURATE, bits=(8,)):
        rng = np.random.default_rng(seed)
        rounding = list(Rounding)[seed % len(Rounding)]
        contract = NumericContract(rounding, overflow, 32 if max(bits) <= 8 else 48)
        self.b = GraphBuilder(rng, contract, 150, bits)
        self.size = 2 * self.b.number(1, 9), 2 * self.b.number(1, 24)
        self.b.tensors[INPUT] = TensorInfo(Shape(self.b.number(2, 40), *self.size), self.b.fmt())

    def conv(self, source, channels=0, kind=None, **options):
        side = 1 + 2 * self.b.number(0, 1)
        info = self.b.tensors[source]
        window = Window((side, side), (1, 1), (side // 2, side // 2)), (info.shape.h, info.shape.w)
        kind = kind or ("grouped" if self.b.chance(0.2) else "dense")
        channels = 0 if kind == "grouped" else channels or self.b.number(1, 150)
        return append_conv(self.b, source, channels=channels, kind=kind, window=window, **options)

    def monotone(self, out):
        act = random_activation(self.b, out)
        if act.table is not None:
            return N.Activation(act.function, table=np.sort(act.table), table_fmt=act.table_fmt)
        return act

    def pool(self, source, window=HALVING):
        info = self.b.tensors[source]
        h, w = ((n - window.size[0]) // window.stride[0] + 1 for n in (info.shape.h, info.shape.w))
        return self.b.emit(
            N.MaxPool(name=self.b.name("pool"), inputs=(source,), window=window), (info.shape.c, h, w), info.fmt
        )

    def add(self, *sources):
        return append_computed(self.b, N.Add, sources)

    def graph(self, *outputs):
        graph = IntGraph("net", self.b.contract, tuple(self.b.nodes), self.b.tensors, tuple(map(Output, outputs)))
        check_graph(graph)
        return graph


def assert_outputs(graph, seed, fused):
    """Every path and 1 or 2 threads give the reference's outputs; the nodes of `fused` take no time of their own."""
    codes = random_input(graph, seed)
    expected = run_outputs(graph, codes)
    for path in engine_paths():
        engine = Engine(graph, path=path, threads=1 + seed % 2)
        for one, other in zip(engine.run(codes), expected, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"{path} {seed}")
        seconds = engine.seconds()
        assert {name: seconds[name] == 0 for name in fused} == fused


@pytest.mark.parametrize("bits", [(8,), (4, 5, 6, 7, 8), (8, 16)])
@pytest.mark.parametrize("seed", range(12))
def test_pool_behind_a_convolution(seed, bits):
    net = Net(seed, bits=bits)
    out = net.b.fmt()
    conv = net.conv(INPUT, act=net.monotone(out), out=out)
    graph = net.graph(net.pool(conv))
    requant = graph.node(conv).requant([graph.tensors[INPUT]], graph.tensors[conv])
    narrow = max(bits) <= 8
    rises = (np.minimum(requant.shift, requant.shift + requant.shift_neg) >= 0).all()
    assert_outputs(graph, seed, {conv: True} if narrow and rises else {})


@pytest.mark.parametrize("seed", range(12))
def test_addition_behind_a_convolution(seed):
    net = Net(100 + seed, bits=((8,), (4, 5, 6, 7, 8))[seed % 2])
    source = net.conv(INPUT)
    one, other = (net.conv(source, 48, kind="dense") for _ in range(2))
    total = net.add(*((one, other) if seed % 3 else (other, one)))
    assert_outputs(net.graph(total), seed, {one: True, other: False})


@pytest.mark.parametrize("seed", range(6))
def test_chain_of_residual_blocks(seed):
    net = Net(200 + seed)
    x = net.pool(net.conv(INPUT, 20, act=N.LINEAR, out=FixedPoint(8, 2)))
    channels, hidden = net.b.tensors[x].shape.c, {}
    for _ in range(3):
        branch = append_conv(net.b, net.conv(x), channels=channels, window=(Window((1, 1)), net.b.tensors[x].shape[1:]))
        hidden[branch] = True
        x = net.add(x, branch)
    assert_outputs(net.graph(x), seed, hidden)


@pytest.mark.parametrize("seed", range(6))
def test_pool_then_addition(seed):
    """A pool and then an addition go into one convolution; a pool behind the addition stays apart."""
    net = Net(300 + seed)
    out = FixedPoint(8, 3)
    other = net.pool(net.conv(INPUT, 33, act=N.LINEAR, out=out))
    channels = net.b.tensors[other].shape.c
    same = Window((3, 3), (1, 1), (1, 1)), net.size
    conv = append_conv(net.b, INPUT, channels=channels, window=same, act=N.LINEAR, out=out)
    pool = net.pool(conv)
    total = net.add(other, pool)
    outputs = [total]
    if min(net.b.tensors[total].shape[1:]) >= 2:
        outputs = [net.pool(total, Window((2, 2), (1, 1)))]
    assert_outputs(net.graph(*outputs), seed, {conv: True})


def test_what_others_read_is_stored():
    """Kept maps, maps with two readers and parts of a concatenation are not fused away."""
    net = Net(400)
    out = FixedPoint(8, 3)
    kept, twice, part = (append_conv(net.b, INPUT, channels=16, act=N.LINEAR, out=out,
                                     window=(Window((1, 1)), net.size)) for _ in range(3))  # fmt: skip
    pools = [net.pool(kept), net.pool(twice), net.pool(twice), net.pool(part)]
    whole = net.b.emit(N.Concat(name="concat", inputs=(part, twice)), (32, *net.size), out)
    graph = net.graph(kept, *pools, whole)
    assert_outputs(graph, 1, {kept: False, twice: False, part: False})


@pytest.mark.parametrize("case", ["wrap", "table", "window", "odd"])
def test_pools_that_do_not_commute_are_computed_apart(case):
    net = Net(500, overflow=Overflow.WRAP if case == "wrap" else Overflow.SATURATE)
    net.b.tensors[INPUT] = TensorInfo(Shape(5, 12, 13 if case == "odd" else 14), FixedPoint(8, 0))
    act = N.LINEAR
    out = FixedPoint(8, 3)
    if case == "table":
        falling = np.arange(out.hi, out.lo - 1, -1)
        act = N.Activation("mish", table=falling, table_fmt=FixedPoint(8, 3))
    conv = append_conv(
        net.b, INPUT, channels=24, act=act, out=out, window=(Window((1, 1)), net.b.tensors[INPUT].shape[1:])
    )
    graph = net.graph(net.pool(conv, Window((3, 3), (3, 3)) if case == "window" else HALVING))
    assert_outputs(graph, 2, {conv: False})

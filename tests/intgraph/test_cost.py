# SPDX-License-Identifier: Apache-2.0
"""Accounting, against numbers counted by hand."""

import numpy as np

from yolo_hw.darknet.layers import Shape
from yolo_hw.fixedpoint import FixedPoint
from yolo_hw.geometry import Window
from yolo_hw.intgraph import INPUT, INPUT_FORMAT, IntGraph, NumericContract, Output, TensorInfo, check_graph
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.bounds import accumulator_bound
from yolo_hw.intgraph.cost import graph_cost


def conv(name, source, weight_shape, window, **fields):
    k = weight_shape[0]
    return N.Conv2d(
        name=name, inputs=(source,), weight=np.ones(weight_shape, np.int64), w_frac=np.zeros(k, np.int64),
        bias=np.zeros(k, np.int64), window=window, **{"w_bits": 8, **fields},
    )  # fmt: skip


def small_graph():
    """3x8x10 -> 4x4x5 (3x3, stride 2) -> depthwise 3x3 at 16 bits -> grouped 1x1 with a table -> pool."""
    act = N.Activation("mish", table=np.zeros(256, np.int64), table_fmt=FixedPoint(8, 0))
    same = Window((3, 3), (1, 1), (1, 1))
    nodes = (
        conv("first", INPUT, (4, 3, 3, 3), Window((3, 3), (2, 2), (1, 1))),
        conv("depth", "first", (4, 1, 3, 3), same, groups=4, w_bits=16),
        conv("group", "depth", (6, 2, 1, 1), Window((1, 1)), groups=2, act=act),
        N.MaxPool(name="pool", inputs=("group",), window=Window((2, 2), (1, 1))),
    )
    fmt = FixedPoint(8, 0)
    tensors = {
        INPUT: TensorInfo(Shape(3, 8, 10), INPUT_FORMAT),
        "first": TensorInfo(Shape(4, 4, 5), fmt),
        "depth": TensorInfo(Shape(4, 4, 5), FixedPoint(16, 0)),
        "group": TensorInfo(Shape(6, 4, 5), fmt),
        "pool": TensorInfo(Shape(6, 3, 4), fmt),
    }
    graph = IntGraph("small", NumericContract(acc_bits=48), nodes, tensors, (Output("pool"),))
    check_graph(graph)
    return graph


def test_costs_counted_by_hand():
    costs = {cost.name: cost for cost in graph_cost(small_graph())}
    assert [(c.name, c.op, c.shape) for c in costs.values()][-1] == ("pool", "maxpool", Shape(6, 3, 4))
    assert [c.macs for c in costs.values()] == [4 * 3 * 9 * 20, 4 * 9 * 20, 6 * 2 * 20, 0]
    assert [c.params for c in costs.values()] == [108 + 4, 36 + 4, 12 + 6, 0]
    assert [c.param_bytes for c in costs.values()] == [108 + 16, 2 * 36 + 16, 12 + 24 + 256, 0]
    assert [c.activation_bytes for c in costs.values()] == [80, 160, 120, 72]


def test_accumulator_bits_counted_by_hand():
    """27 * 255 = 6885 takes 13 bits and a sign; 9 * -128 needs 12; 2 * -32768 is exactly a 17-bit number."""
    assert [cost.acc_bits for cost in graph_cost(small_graph())] == [14, 12, 17, 0]


def test_bounds_hold_every_partial_sum():
    """Weights 5, -3 on codes 0..255 and bias 7: at least -765, at most 1282, whatever is summed first."""
    node = conv("c", INPUT, (1, 2, 1, 1), Window((1, 1)))
    node.weight[0, :, 0, 0] = [5, -3]
    node.bias[0] = 7
    bound = accumulator_bound(node, [TensorInfo(Shape(2, 1, 1), INPUT_FORMAT)])
    assert (bound.lo, bound.hi) == (-3 * 255, 5 * 255 + 7)
    node.bias[0] = -7
    bound = accumulator_bound(node, [TensorInfo(Shape(2, 1, 1), INPUT_FORMAT)])
    assert (bound.lo, bound.hi) == (-3 * 255 - 7, 5 * 255)


def test_bounds_of_the_other_nodes():
    signed, unsigned = FixedPoint(4, 2), FixedPoint(4, 0, False)
    a, b = TensorInfo(Shape(1, 3, 3), signed), TensorInfo(Shape(1, 3, 3), unsigned)
    bound = accumulator_bound(N.Add(name="n", inputs=("a", "b")), [a, b])
    assert (bound.lo, bound.hi) == (-8, 7 + 4 * 15)
    bound = accumulator_bound(N.Mul(name="n", inputs=("a", "b")), [a, b])
    assert (bound.lo, bound.hi) == (-8 * 15, 7 * 15)
    bound = accumulator_bound(N.AvgPool(name="n", inputs=("a",), mul=1, mul_shift=1), [a])
    assert (bound.lo, bound.hi) == (-72, 63)
    assert accumulator_bound(N.Concat(name="n", inputs=("a", "b")), [a, b]) is None


def test_reciprocals_are_the_nearest_integers():
    for count in (1, 2, 3, 49, 100, 169, 360, 2704):
        mul, shift = N.AvgPool.reciprocal(count)
        assert abs(mul * count - 2**shift) * 2 <= count
        assert 1 << 14 <= mul <= 1 << 15

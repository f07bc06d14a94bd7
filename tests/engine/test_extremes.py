# SPDX-License-Identifier: Apache-2.0
"""The engine at the ends of its numbers: the largest provable sums, every tie at every shift, shifts 0, 31 and 47."""

import numpy as np
import pytest

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import GraphError
from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.geometry import Window
from yolo_hw.intgraph import INPUT, IntGraph, NumericContract, Output, TensorInfo, check_graph, run_outputs
from yolo_hw.intgraph.bounds import accumulator_bound
from yolo_hw.intgraph.engine import Engine, engine_paths
from yolo_hw.intgraph.nodes import LINEAR, Activation, Conv2d

INT32 = 2**31
SUM_SHIFTS = (0, 15, 23, 24, 31)
CODE16 = FixedPoint(16, 0)


def graph_of(conv, x, out, contract=NumericContract()):  # noqa: B008 - a constant
    graph = IntGraph("extreme", contract, (conv,), {INPUT: x, conv.name: out}, (Output(conv.name),))
    check_graph(graph)
    return graph


def assert_paths_equal_numpy(graph, codes, threads=1):
    """Return the codes that all paths agree on."""
    expected = run_outputs(graph, codes)[0]
    for path in engine_paths():
        found = Engine(graph, path=path, threads=threads).run(codes)[0]
        np.testing.assert_array_equal(found, expected, err_msg=path)
    return expected


def largest_conv(fmt, side, depthwise=False):
    """Return a convolution whose sums fill 32 bits: as many terms of the largest kind as fit, the rest is bias.

    Rows have weights -128 or 127, a positive or a negative bias, and every shift of `SUM_SHIFTS`.
    """
    worst = 128 * max(fmt.hi, -fmt.lo)
    channels = 40 if depthwise else (INT32 - 1) // worst // side**2
    weight, sign, shift = (g.ravel() for g in np.meshgrid((-128, 127), (1, -1), SUM_SHIFTS, indexing="ij"))
    weight, sign, shift = (np.resize(v, channels) if depthwise else v for v in (weight, sign, shift))
    terms = side**2 if depthwise else channels * side**2
    top, bottom = (terms * np.maximum(weight * a, weight * b) for a, b in ((fmt.lo, fmt.hi), (-fmt.lo, -fmt.hi)))
    window = Window((side, side), (1, 1), (side // 2, side // 2))
    rows = np.broadcast_to(weight.reshape(-1, 1, 1, 1), (len(weight), terms // side**2, side, side))
    return channels, Conv2d(
        name="conv", inputs=(INPUT,), weight=np.ascontiguousarray(rows), w_frac=shift, w_bits=8, window=window,
        bias=np.where(sign > 0, INT32 - 1 - top, -INT32 + bottom), groups=channels if depthwise else 1,
    )  # fmt: skip


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("fmt", [FixedPoint(8, 0), FixedPoint(8, 0, signed=False), FixedPoint(13, 0)], ids=str)
def test_the_largest_sums_of_extreme_codes(fmt, side, depthwise):
    """-128 x -128, 255 x -128, -4096 x -128 as often as 32 bits hold, then the bias to the last unit."""
    channels, conv = largest_conv(fmt, side, depthwise)
    x, out = TensorInfo(Shape(channels, 3, 4), fmt), TensorInfo(Shape(len(conv.bias), 3, 4), CODE16)
    bound = accumulator_bound(conv, [x])
    assert (bound.lo, bound.hi) == (-INT32, INT32 - 1)
    graph = graph_of(conv, x, out)
    seen = set()
    for code in (fmt.lo, fmt.hi):
        seen |= set(assert_paths_equal_numpy(graph, np.full(x.shape, code, np.int64), threads=2).ravel().tolist())
    checkers = np.where(np.indices(x.shape).sum(0) % 2, fmt.lo, fmt.hi)
    assert_paths_equal_numpy(graph, checkers)
    assert {CODE16.lo, CODE16.hi} <= seen


def test_one_channel_more_is_refused():
    fmt = FixedPoint(8, 0)
    channels, conv = largest_conv(fmt, 1)
    wide = Conv2d(
        name="conv", inputs=(INPUT,), weight=np.full((20, channels + 2, 1, 1), -128), w_frac=conv.w_frac,
        bias=np.zeros(20, np.int64), w_bits=8, window=Window((1, 1)),
    )  # fmt: skip
    with pytest.raises(GraphError, match="accumulators_fit"):
        graph_of(wide, TensorInfo(Shape(channels + 2, 1, 1), fmt), TensorInfo(Shape(20, 1, 1), CODE16))


@pytest.mark.parametrize("code", [-(1 << 15), (1 << 15) - 1])
def test_the_largest_sums_of_16_bit_codes(code):
    """More terms (-2**15)**2 than 32 bits hold take the 48-bit accumulators; their sum is exact to the last bit."""
    channels = 4097
    conv = Conv2d(
        name="conv", inputs=(INPUT,), weight=np.full((3, channels, 1, 1), -(1 << 15), np.int64),
        w_frac=np.array([0, 27, 47]), bias=np.array([INT32 - 1, -INT32, 0]), w_bits=16, window=Window((1, 1)),
    )  # fmt: skip
    x, out = TensorInfo(Shape(channels, 2, 3), CODE16), TensorInfo(Shape(3, 2, 3), CODE16)
    found = assert_paths_equal_numpy(
        graph_of(conv, x, out, NumericContract(acc_bits=48)), np.full(x.shape, code, np.int64)
    )
    exact = (-channels * code * (1 << 15) - INT32 + (1 << 26)) >> 27
    assert found[1, 0, 0] == np.clip(exact, CODE16.lo, CODE16.hi)


ACTIVATIONS = {
    "linear": LINEAR,
    "leaky": Activation("leaky", slope_mul=51, slope_shift=9),
    "relu": Activation("relu", cap=CODE16.hi),
    "table": Activation("mish", table=np.arange(256)[::-1] - 128, table_fmt=FixedPoint(8, 0)),
}


def tie_graph(contract, act):
    """Return a graph whose accumulators are every small odd multiple of half a unit, and both neighbours, per shift."""
    shift, odd, off = (g.ravel() for g in np.meshgrid(range(48), range(-9, 10, 2), (-1, 0, 1), indexing="ij"))
    tie = np.where(shift > 0, odd.astype(np.int64) << np.maximum(shift - 1, 0), odd) + off
    fits = (np.abs(tie) < INT32 - 1) & (shift + act.slope_shift <= contract.max_shift)
    k = int(fits.sum())
    code = act.table_fmt or CODE16
    conv = Conv2d(
        name="ties", inputs=(INPUT,), weight=np.zeros((k, 1, 1, 1), np.int64), w_frac=shift[fits] + code.frac,
        bias=tie[fits], w_bits=8, window=Window((1, 1)), act=act,
    )  # fmt: skip
    x = TensorInfo(Shape(1, 1, 3), FixedPoint(8, 0))
    return graph_of(conv, x, TensorInfo(Shape(k, 1, 3), CODE16), contract), shift[fits], tie[fits]


@pytest.mark.parametrize("function", list(ACTIVATIONS))
@pytest.mark.parametrize("rounding", list(Rounding))
def test_every_tie_at_every_shift(rounding, function):
    for overflow in Overflow:
        for acc_bits in (32, 48):
            contract = NumericContract(rounding, overflow, acc_bits)
            graph, shift, tie = tie_graph(contract, ACTIVATIONS[function])
            found = assert_paths_equal_numpy(graph, np.ones((1, 1, 3), np.int64))
            if function == "linear":
                unit, even = (tie == 1 << np.maximum(shift - 1, 0)) & (shift > 0), Rounding.HALF_EVEN
                assert {0, *range(1, 33)} - {0, 32} <= set(shift[unit].tolist())
                assert (found[unit] == (0 if rounding in (Rounding.FLOOR, even) else 1)).all()

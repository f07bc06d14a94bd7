# SPDX-License-Identifier: Apache-2.0
"""Every node of random graphs, computed once more by naive loops over exact integers."""

from dataclasses import replace

import numpy as np
import pytest
from support.exact import exact_requant
from support.random_graph import random_graph, random_input

from yolo_hw.darknet.layers import Shape
from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.geometry import Window
from yolo_hw.intgraph import INPUT, NumericContract, TensorInfo, execute
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.kernels import run_node
from yolo_hw.intgraph.nodes import NODE_TYPES


def naive_conv(node, inputs, shape):
    (x,) = [codes.tolist() for codes in inputs]
    (sy, sx), (py, px), (dy, dx) = node.window.stride, node.window.pad, node.window.dilation
    k_per_group, c_per_group = len(node.bias) // node.groups, node.weight.shape[1]
    weight, bias = node.weight.tolist(), node.bias.tolist()
    acc = np.zeros(shape, object)
    for k, row, col in np.ndindex(shape):
        total = bias[k]
        for c, r, s in np.ndindex(node.weight.shape[1:]):
            y, xx = row * sy - py + r * dy, col * sx - px + s * dx
            if 0 <= y < len(x[0]) and 0 <= xx < len(x[0][0]):
                total += weight[k][c][r][s] * x[k // k_per_group * c_per_group + c][y][xx]
        acc[k, row, col] = total
    return acc


def naive_add(node, inputs, shape, fracs):
    acc = np.zeros(shape, object)
    for x, frac in zip(inputs, fracs, strict=True):
        acc += x.astype(object) * 2 ** (max(fracs) - frac)
    return acc


def naive_mul(inputs, shape):
    x, factor = inputs
    acc = np.zeros(shape, object)
    for c, y, xx in np.ndindex(shape):
        fc, fy, fx = (i if n > 1 else 0 for i, n in zip((c, y, xx), factor.shape, strict=True))
        acc[c, y, xx] = int(x[c, y, xx]) * int(factor[fc, fy, fx])
    return acc


def naive_maxpool(node, x, shape):
    (size_y, size_x), (sy, sx), (py, px) = node.window.size, node.window.stride, node.window.pad
    out = np.zeros(shape, np.int64)
    for c, row, col in np.ndindex(shape):
        top, left = row * sy - py, col * sx - px
        out[c, row, col] = x[c, max(top, 0) : top + size_y, max(left, 0) : left + size_x].max()
    return out


def naive_reorg(node, x, shape):
    """The index formulas of darknet's reorg_cpu and of its reorg3d, one element at a time."""
    s, out = node.stride, np.zeros(shape, np.int64)
    if node.mode == "space_to_depth" or node.reverse:
        big, small = (out, x) if node.reverse else (x, out)
        channels = big.shape[0]
        for c, y, xx in np.ndindex(big.shape):
            place = (((y % s) * s + xx % s) * channels + c, y // s, xx // s)
            if node.reverse:
                out[c, y, xx] = small[place]
            else:
                out[place] = x[c, y, xx]
        return out
    c_in, h, w = x.shape
    wide, flat = np.zeros(x.size, np.int64), x.reshape(-1)
    for c, y, xx in np.ndindex(x.shape):
        c2, offset = c % (c_in // s**2), c // (c_in // s**2)
        source = xx * s + offset % s + w * s * (y * s + offset // s + h * s * c2)
        wide[xx + w * (y + h * c)] = flat[source]
    return wide.reshape(shape)


def naive_moved(node, inputs, shape):
    x = inputs[0]
    if isinstance(node, N.MaxPool):
        return naive_maxpool(node, x, shape)
    if isinstance(node, N.Reorg):
        return naive_reorg(node, x, shape)
    if isinstance(node, N.Concat):
        return np.stack([channel for codes in inputs for channel in codes])
    out = np.zeros(shape, np.int64)
    for c, y, xx in np.ndindex(shape):
        if isinstance(node, N.Slice):
            out[c, y, xx] = x[node.start + c, y, xx]
        else:
            out[c, y, xx] = x[c, y // node.stride, xx // node.stride]
    return out


def naive_accumulators(node, inputs, infos, shape):
    if isinstance(node, N.Conv2d):
        return naive_conv(node, inputs, shape)
    if isinstance(node, N.Add):
        return naive_add(node, inputs, shape, [info.fmt.frac for info in infos])
    if isinstance(node, N.Mul):
        return naive_mul(inputs, shape)
    assert isinstance(node, N.AvgPool)
    return np.array([[[sum(channel.reshape(-1).tolist())]] for channel in inputs[0]], object)


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("bits", [(4, 5, 6, 7, 8), (8, 16)])
def test_every_node_equals_naive_loops(rounding, bits):
    seen = set()
    for i, mode in enumerate(Overflow):
        seed = 10 * i + list(Rounding).index(rounding)
        graph = random_graph(seed, max_channels=8, size=(5 + i, 7), bits=bits, rounding=rounding, overflow=mode)
        maps = {INPUT: random_input(graph, seed)}
        for name, result in execute(graph, maps[INPUT]):
            node, info = graph.node(name), graph.tensors[name]
            inputs, infos = [maps[source] for source in node.inputs], graph.inputs_of(node)
            maps[name] = result.codes
            seen.add(node.op)
            requant = node.requant(infos, info)
            if requant is None:
                assert result.acc is None
                np.testing.assert_array_equal(result.codes, naive_moved(node, inputs, info.shape), err_msg=name)
                continue
            acc = naive_accumulators(node, inputs, infos, info.shape)
            assert (result.acc == acc).all(), name
            expected = [exact_requant(a, k, requant, graph.contract) for k, plane in enumerate(acc) for a in plane.flat]
            assert result.codes.reshape(-1).tolist() == expected, name
    assert seen == set(NODE_TYPES)


def test_sums_above_2_to_the_53_are_exact():
    """Where float64 products are not provably exact the reference must not use them."""
    channels = 3
    conv = N.Conv2d(
        name="c", inputs=(INPUT,), weight=np.full((1, channels, 1, 1), (1 << 15) - 1), w_frac=np.array([0]),
        bias=np.array([1]), w_bits=16, window=Window((1, 1)),
    )  # fmt: skip
    big = replace(conv, weight=np.array([1 << 53, 1, 1]).reshape(1, 3, 1, 1))
    x = TensorInfo(Shape(channels, 1, 1), FixedPoint(16, 0))
    out = TensorInfo(Shape(1, 1, 1), FixedPoint(16, 0))
    for node, expected in ((conv, 3 * 32767 * 32767 + 1), (big, (1 << 53) * 3 + 1 + 1 + 1)):
        codes = np.array([3, 1, 1] if node is big else [32767] * 3).reshape(3, 1, 1)
        result = run_node(node, [codes], [x], out, NumericContract())
        assert result.acc.item() == expected

# SPDX-License-Identifier: Apache-2.0
"""What every node means, in numpy: the reference all other implementations are compared with for equality.

Values are int64. Convolutions run as float64 matrix products where the accumulators provably stay below
2**53, in which case every partial sum is exact, and as int64 otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from yolo_hw.fixedpoint import IntArray
from yolo_hw.geometry import Window
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.nodes import Node, TensorInfo
from yolo_hw.intgraph.requant import NumericContract

EXACT_FLOAT64 = 1 << 53
Map = npt.NDArray[Any]
"""[C, H, W], int64 or float64 with integer values."""


@dataclass(frozen=True)
class Result:
    """Output codes [C, H, W] of a node, and its accumulators if it computes any."""

    codes: IntArray
    acc: IntArray | None = None


def run_node(
    node: Node, inputs: list[IntArray], infos: list[TensorInfo], out: TensorInfo, c: NumericContract
) -> Result:
    """Compute one node.

    Args:
        node: The node.
        inputs: Codes [C, H, W] of its inputs.
        infos: Shapes and formats of the inputs.
        out: Shape and format of the output.
        c: The graph's arithmetic.

    Returns:
        Output codes [K, Ho, Wo] int64 and accumulators of the same shape, before multiplier, shift and activation.
    """
    if type(node) in _MOVING:
        return Result(_MOVING[type(node)](node, inputs, out))
    acc = _ACCUMULATING[type(node)](node, inputs, infos, out)
    requant = node.requant(infos, out)
    assert requant is not None
    return Result(requant.apply(acc, c), acc)


def _conv2d(node: N.Conv2d, inputs: list[IntArray], infos: list[TensorInfo], out: TensorInfo) -> IntArray:
    k, c, _, _ = node.weight.shape
    g = node.groups
    bound = int(np.abs(node.weight).sum(axis=(1, 2, 3)).max(initial=0)) * max(infos[0].fmt.hi, -infos[0].fmt.lo)
    dtype: type[Any] = np.float64 if bound + int(np.abs(node.bias).max(initial=0)) < EXACT_FLOAT64 else np.int64
    padded = pad_map(inputs[0].astype(dtype), node.window, out, 0)
    weight = node.weight.astype(dtype).reshape(g, k // g, c, node.window.taps)
    acc = np.zeros((g, k // g, out.shape.h * out.shape.w), dtype)
    for tap, view in enumerate(tap_views(padded, node.window, out)):
        x = np.ascontiguousarray(view).reshape(g, c, -1)
        acc += weight[:, :, :, tap] * x if c == 1 else np.matmul(weight[:, :, :, tap], x)
    return np.asarray(acc.reshape(out.shape) + node.bias.reshape(-1, 1, 1), np.int64)


def _add(node: N.Add, inputs: list[IntArray], infos: list[TensorInfo], out: TensorInfo) -> IntArray:
    total = np.zeros(out.shape, np.int64)
    for x, left in zip(inputs, node.alignment(infos), strict=True):
        total += x << left
    return total


def _mul(node: N.Mul, inputs: list[IntArray], infos: list[TensorInfo], out: TensorInfo) -> IntArray:
    return inputs[0] * inputs[1]


def _avgpool(node: N.AvgPool, inputs: list[IntArray], infos: list[TensorInfo], out: TensorInfo) -> IntArray:
    return np.asarray(inputs[0].sum(axis=(1, 2), keepdims=True), np.int64)


def _maxpool(node: N.MaxPool, inputs: list[IntArray], out: TensorInfo) -> IntArray:
    padded = pad_map(inputs[0], node.window, out, out.fmt.lo)
    result: IntArray | None = None
    for view in tap_views(padded, node.window, out):
        result = view.copy() if result is None else np.maximum(result, view)
    assert result is not None
    return result


def _concat(node: N.Concat, inputs: list[IntArray], out: TensorInfo) -> IntArray:
    return np.concatenate(inputs)


def _slice(node: N.Slice, inputs: list[IntArray], out: TensorInfo) -> IntArray:
    return inputs[0][node.start : node.stop]


def _upsample(node: N.Upsample, inputs: list[IntArray], out: TensorInfo) -> IntArray:
    return inputs[0].repeat(node.stride, 1).repeat(node.stride, 2)


def _reorg(node: N.Reorg, inputs: list[IntArray], out: TensorInfo) -> IntArray:
    return inputs[0].reshape(-1)[reorg_sources(node, inputs[0].shape)].reshape(out.shape)


def reorg_sources(node: N.Reorg, shape: tuple[int, ...]) -> IntArray:
    """Return the flat input index of every flat output element, [C * H * W] int64."""
    c, h, w = shape
    s = node.stride
    flat = np.arange(c * h * w, dtype=np.int64)
    if node.reverse:
        return np.asarray(flat.reshape(s, s, c // (s * s), h, w).transpose(2, 3, 0, 4, 1).reshape(-1))
    if node.mode == "darknet":
        c, h, w = c // (s * s), h * s, w * s
    return np.asarray(flat.reshape(c, h // s, s, w // s, s).transpose(2, 4, 0, 1, 3).reshape(-1))


def pad_map(x: Map, window: Window, out: TensorInfo, value: int) -> Map:
    """Pad (or crop) a map [C, H, W] so that all windows lie inside."""
    after = [window.trailing_pad(axis, x.shape[1 + axis], out.shape[1 + axis]) for axis in (0, 1)]
    x = x[:, : x.shape[1] + min(after[0], 0), : x.shape[2] + min(after[1], 0)]
    widths = ((0, 0), (window.pad[0], max(after[0], 0)), (window.pad[1], max(after[1], 0)))
    return np.pad(x, widths, constant_values=value)


def tap_views(padded: Map, window: Window, out: TensorInfo) -> list[Map]:
    """Return for every tap (row by row) the view [C, Ho, Wo] of the padded map it reads."""
    (stride_y, stride_x), (_, h, w) = window.stride, out.shape
    views = []
    for r in range(window.size[0]):
        for s in range(window.size[1]):
            y, x = r * window.dilation[0], s * window.dilation[1]
            views.append(
                padded[:, y : y + (h - 1) * stride_y + 1 : stride_y, x : x + (w - 1) * stride_x + 1 : stride_x]
            )
    return views


_ACCUMULATING: dict[type[Node], Callable[..., IntArray]] = {
    N.Conv2d: _conv2d,
    N.Add: _add,
    N.Mul: _mul,
    N.AvgPool: _avgpool,
}
_MOVING: dict[type[Node], Callable[..., IntArray]] = {
    N.MaxPool: _maxpool,
    N.Concat: _concat,
    N.Slice: _slice,
    N.Upsample: _upsample,
    N.Reorg: _reorg,
}

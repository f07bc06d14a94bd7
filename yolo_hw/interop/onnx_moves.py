# SPDX-License-Identifier: Apache-2.0
"""Nodes that only move values, in standard operators that work on any element type."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from yolo_hw.darknet.layers import Shape
from yolo_hw.interop.onnx_graph import OnnxBuilder, Settle
from yolo_hw.intgraph.nodes import Concat, Node, Reorg, Slice, Upsample


def emit_move(
    b: OnnxBuilder, node: Node, inputs: Sequence[str], source: Shape, out: str, *, settle: Settle | None = None
) -> str:
    """Add a concat, slice, upsample or reorg.

    Args:
        b: The model.
        node: The node.
        inputs: Its maps.
        source: Shape of the first one.
        out: Name of the result.
        settle: For float maps: applied to what lies between two operators. None for maps of integers.
    """
    if isinstance(node, Concat):
        return b.emit("Concat", inputs, out, axis=1)
    if isinstance(node, Slice):
        return b.cut(inputs[0], (1,), [(node.start, node.stop, 1)], out)
    if isinstance(node, Upsample):
        return (emit_repeat if settle is None else emit_resize)(b, inputs[0], source, node.stride, out)
    assert isinstance(node, Reorg)
    return emit_reorg(b, inputs[0], source, node, out, settle=settle or (lambda name: name))


def emit_repeat(b: OnnxBuilder, x: str, shape: Shape, stride: int, out: str) -> str:
    """Repeat every pixel `stride` times in both directions, without Resize, whose scales are floats."""
    c, h, w = shape
    split = b.emit("Reshape", [x, b.shape(c, h, 1, w, 1)], f"{out}/split")
    wide = b.emit("Expand", [split, b.constant((1, c, h, stride, w, stride), np.int64)], f"{out}/repeated")
    return b.emit("Reshape", [wide, b.shape(c, h * stride, w * stride)], out)


def emit_resize(b: OnnxBuilder, x: str, shape: Shape, stride: int, out: str) -> str:
    """Repeat every pixel of a float map by Resize, the form that other tools know as upsampling."""
    nowhere = b.constant([], np.float32)  # the region of interest: executors differ in what they do with a left out one
    scales = b.constant((1, 1, stride, stride), np.float32)
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return b.emit("Resize", [x, nowhere, scales], out, **modes)


def emit_reorg(b: OnnxBuilder, x: str, shape: Shape, node: Reorg, out: str, *, settle: Settle) -> str:
    """Add the index map of `yolo_hw.intgraph.kernels.reorg_sources` as reshape, transpose, reshape."""
    (c, h, w), s = shape, node.stride
    if node.reverse:
        split, order, final = (s, s, c // (s * s), h, w), (2, 3, 0, 4, 1), (c // (s * s), h * s, w * s)
    else:
        final = (c * s * s, h // s, w // s)
        if node.mode == "darknet":  # reads its input as a map of fewer channels and more pixels
            c, h, w = c // (s * s), h * s, w * s
        split, order = (c, h // s, s, w // s, s), (2, 4, 0, 1, 3)
    x = settle(b.emit("Reshape", [x, b.shape(*split)], f"{out}/split"))
    x = settle(b.emit("Transpose", [x], f"{out}/transposed", perm=[0, *(1 + axis for axis in order)]))
    return b.emit("Reshape", [x, b.shape(*final)], out)

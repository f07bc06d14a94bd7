# SPDX-License-Identifier: Apache-2.0
"""Our networks as ONNX models, so that other runtimes compute the same work.

Float networks are the library's own export, `yolo_hw.interop.onnx_float`. The quantised model holds the integer
graph's own codes and power-of-two scales as QuantizeLinear and DequantizeLinear around every operator, the form from
which runtimes make integer kernels. A signed feature map's code q is stored as the byte q + 128, because kernels for
unsigned activations and signed weights are the fast ones everywhere, and leaky has an integer form only where its
argument is rounded, too: a form for speed, which need not be exact. The exact ones are `yolo_hw.interop`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from yolo_hw.darknet.layers import Shape
from yolo_hw.fixedpoint import FixedPoint
from yolo_hw.geometry import Window
from yolo_hw.interop.onnx_float import float_model
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.graph import INPUT, IntGraph
from yolo_hw.quant import folded as F
from yolo_hw.quant.folded import FoldedGraph

OPSET = 13
"""The first with a scale per channel; every runtime measured here reads it."""
IR_VERSION = 8
OFFSET = 128
"""Added to signed codes, which makes them bytes."""

Range = tuple[float, float]
Array = npt.NDArray[Any]


def quantised_model(graph: IntGraph, pre_ranges: Mapping[str, Range] | None = None) -> onnx.ModelProto:
    """Return the integer graph in the quantise-dequantise form.

    Args:
        graph: At most 8 bits; convolutions, additions, concatenations, max pools and upsampling only.
        pre_ranges: Range of the values before the activation, per leaky node. With it they are quantised, too, which
            onnxruntime needs to keep the activation in integers; without it they are not, which OpenVINO fuses.

    Returns:
        Input ``input`` [1, C, H, W] uint8, the image's codes; one output per head, [1, K, h, w] uint8, codes + 128.

    Raises:
        ValueError: Another node or activation; names it.
    """
    model = _Model({name: info.shape for name, info in graph.tensors.items()})
    model.dequantise(INPUT, graph.tensors[INPUT].fmt)
    for node in graph.nodes:
        inputs, real = [f"{name}.real" for name in node.inputs], f"{node.name}.exact"
        act = node.act if isinstance(node, (N.Conv2d, N.Add)) else N.LINEAR
        pre = _before(act.function, real)
        if isinstance(node, N.Conv2d):
            acc_frac = node.w_frac + graph.inputs_of(node)[0].fmt.frac
            inputs.append(model.integers(f"{node.name}.weight", node.weight.astype(np.int8), node.w_frac))
            inputs.append(model.integers(f"{node.name}.bias", node.bias.astype(np.int32), acc_frac))
        model.operator(node, inputs, pre)
        if pre_ranges is not None and node.name in pre_ranges:
            pre = model.requantise(pre, pre_ranges[node.name])
        model.activation(act.function, pre, real, act.slope_mul * 2.0**-act.slope_shift)
        model.quantise(real, node.name, graph.output_of(node).fmt)
        if any(graph.consumers(node.name)):
            model.dequantise(node.name, graph.output_of(node).fmt)
    return model.finish(graph.name, [output.tensor for output in graph.outputs])


def conv_model(weight: Array, bias: Array, image: tuple[int, ...]) -> onnx.ModelProto:
    """Return one float32 convolution of stride 1 that keeps the map's size.

    Args:
        weight: [K, C, R, R].
        bias: [K].
        image: 1, C, H, W.

    Returns:
        Input ``input``, output ``conv``.
    """
    k, r = weight.shape[0], weight.shape[-1]
    window = Window((r, r), pad=(r // 2, r // 2))
    shape, wide = Shape(k, *image[2:]), np.float64
    node = F.FoldedConv(
        name="conv", inputs=(INPUT,), shape=shape, weight=weight.astype(wide), bias=bias.astype(wide), window=window
    )
    return float_model(FoldedGraph("conv", Shape(*image[1:]), (node,), (("conv", None),)))


def quantised_conv_model(weight: Array, bias: Array, image: tuple[int, ...]) -> onnx.ModelProto:
    """Return the convolution of `conv_model` as onnxruntime's own channels-last operator on bytes.

    This is what onnxruntime makes of a convolution inside a quantised network, without the transpositions that would
    surround it in a network of one layer.

    Returns:
        Input ``input`` [1, H, W, C] uint8 with zero point 128, output ``conv`` [1, H, W, K] likewise.
    """
    k, r = weight.shape[0], weight.shape[-1]
    model = _Model({})
    step = float(np.abs(weight).max()) / (OFFSET - 1)
    codes = model.constant("weight", np.rint(weight / step).astype(np.int8))
    scales = [model.constant("scale", np.full(k, step, np.float32)), model.constant("zero", np.zeros(k, np.int8))]
    source, out = model.grid("source", 2.0**-5, OFFSET), model.grid("out", 2.0**-5, OFFSET)
    sums = model.constant("bias", np.rint(bias / (step * 2.0**-5)).astype(np.int32))
    attributes = {"kernel_shape": [r, r], "pads": [r // 2] * 4, "channels_last": 1, "domain": "com.microsoft"}
    model.emit("QLinearConv", [INPUT, *source, codes, *scales, *out, sums], "conv", **attributes)
    (_, c, h, w) = image
    first = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [1, h, w, c])
    last = helper.make_tensor_value_info("conv", TensorProto.UINT8, [1, h, w, k])
    body = helper.make_graph(model.nodes, "conv", [first], [last], list(model.constants.values()))
    domains = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(body, opset_imports=domains, ir_version=IR_VERSION)


class _Model:
    """A model under construction; `shapes` has the input and every node."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.shapes = shapes
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def emit(self, op: str, inputs: list[str], out: str, **attributes: object) -> str:
        """Add a node that produces `out`."""
        self.nodes.append(helper.make_node(op, inputs, [out], name=f"{out}/{op}", **attributes))
        return out

    def constant(self, name: str, value: Array) -> str:
        """Add an array."""
        self.constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def operator(self, node: N.Node, inputs: list[str], out: str) -> None:
        """Add the operator of a node, without its activation."""
        if type(node) not in _OPERATORS:
            raise ValueError(f"{node.name}: no ONNX form for {type(node).__name__}")
        _OPERATORS[type(node)](self, node, inputs, out)

    def activation(self, function: str, source: str, out: str, slope: float) -> None:
        """Add an activation; linear adds nothing, as its source is `out`."""
        if function == "leaky":
            self.emit("LeakyRelu", [source], out, alpha=slope)
        elif function == "relu":
            self.emit("Relu", [source], out)
        elif function != "linear":
            raise ValueError(f"{out}: no ONNX form for activation {function}")

    def integers(self, name: str, codes: Array, frac: Array) -> str:
        """Add constant codes [K, ...] with fraction bits [K]; return their real values."""
        scale = self.constant(f"{name}.scale", np.exp2(-frac.astype(np.float64)).astype(np.float32))
        zero = self.constant(f"{name}.zero", np.zeros(len(frac), codes.dtype))
        return self.emit("DequantizeLinear", [self.constant(name, codes), scale, zero], f"{name}.real", axis=0)

    def grid(self, name: str, scale: float, zero: int) -> list[str]:
        """Add scale and zero point of bytes."""
        return [self.constant(f"{name}.scale", np.float32(scale)), self.constant(f"{name}.zero", np.uint8(zero))]

    def quantise(self, real: str, name: str, fmt: FixedPoint) -> None:
        """Round real values to the bytes `name`."""
        self.emit("QuantizeLinear", [real, *self.grid(name, fmt.step, OFFSET * fmt.signed)], name)

    def dequantise(self, name: str, fmt: FixedPoint) -> None:
        """Add the real values of the bytes `name`."""
        self.emit("DequantizeLinear", [name, *self.grid(name, fmt.step, OFFSET * fmt.signed)], f"{name}.real")

    def requantise(self, real: str, limits: Range) -> str:
        """Round real values to 256 steps between two limits."""
        low, high = min(limits[0], 0.0), max(limits[1], 0.0)
        scale = max(high - low, 1e-6) / 255
        grid = self.grid(f"{real}.code", scale, round(-low / scale))
        code = self.emit("QuantizeLinear", [real, *grid], f"{real}.code")
        return self.emit("DequantizeLinear", [code, *grid], f"{real}.rounded")

    def window(self, node: N.Conv2d | N.MaxPool) -> dict[str, object]:
        """Return the attributes of a sliding window."""
        window: Window = node.window
        source, out = self.shapes[node.inputs[0]], self.shapes[node.name]
        trailing = [max(window.trailing_pad(axis, source[1 + axis], out[1 + axis]), 0) for axis in (0, 1)]
        return {
            "kernel_shape": window.size,
            "strides": window.stride,
            "dilations": window.dilation,
            "pads": [*window.pad, *trailing],
        }

    def conv(self, node: N.Conv2d, inputs: list[str], out: str) -> None:
        """Add a convolution of input, weight, bias."""
        self.emit("Conv", inputs, out, group=node.groups, **self.window(node))

    def max_pool(self, node: N.MaxPool, inputs: list[str], out: str) -> None:
        """Add a max pool; ONNX lets padding never win, either."""
        self.emit("MaxPool", inputs, out, **self.window(node))

    def upsample(self, node: N.Upsample, inputs: list[str], out: str) -> None:
        """Add a repetition of pixels."""
        scales = self.constant(f"{out}.scales", np.array([1, 1, node.stride, node.stride], np.float32))
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        self.emit("Resize", [*inputs, "", scales], out, **modes)

    def concat(self, node: N.Concat, inputs: list[str], out: str) -> None:
        """Add a concatenation."""
        self.emit("Concat", inputs, out, axis=1)

    def add(self, node: N.Add, inputs: list[str], out: str) -> None:
        """Add a sum of two maps."""
        if len(inputs) != 2:
            raise ValueError(f"{node.name}: an ONNX Add has two inputs, got {len(inputs)}")
        self.emit("Add", inputs, out)

    def finish(self, name: str, outputs: list[str]) -> onnx.ModelProto:
        """Return the model; input and outputs are bytes."""
        kind = TensorProto.UINT8
        source = helper.make_tensor_value_info(INPUT, kind, [1, *self.shapes[INPUT]])
        sinks = [helper.make_tensor_value_info(out, kind, [1, *self.shapes[out]]) for out in outputs]
        body = helper.make_graph(self.nodes, name, [source], sinks, list(self.constants.values()))
        model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return model


def _before(function: str, name: str) -> str:
    """The tensor an activation reads, which is its output for linear."""
    return name if function == "linear" else f"{name}.pre"


_OPERATORS: dict[type[N.Node], Callable[[_Model, Any, list[str], str], None]] = {
    N.Conv2d: _Model.conv,
    N.MaxPool: _Model.max_pool,
    N.Upsample: _Model.upsample,
    N.Concat: _Model.concat,
    N.Add: _Model.add,
}
"""By the node's class."""

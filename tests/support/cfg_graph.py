# SPDX-License-Identifier: Apache-2.0
"""Integer graphs of darknet cfgs with random codes, built without torch and calibration."""

from __future__ import annotations

import numpy as np
from support.networks import CfgWriter, build

from yolo_hw.darknet import layers as L
from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.geometry import Window
from yolo_hw.intgraph import INPUT, INPUT_FORMAT, IntGraph, NumericContract, Output, TensorInfo
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.check import check_graph
from yolo_hw.intgraph.nodes import Activation, Node

CODE = FixedPoint(8, 4)
"""Format of every activation, so that every route is a matter of addresses."""
W_FRAC = 6


def feature_cfg() -> str:
    """Return a cfg with every structure whose place in a bundle differs, on a 32 x 32 image."""
    cfg = CfgWriter(32, 32)
    cfg.conv(8, 3, 2)
    cfg.conv(8, 3, groups=8, activation="mish")
    cfg.conv(8, activation="linear")
    cfg.section("shortcut", from_=-3, activation="linear")
    cfg.route(-1, groups=2, group_id=1)
    cfg.conv(12, 3, 2, activation="relu")
    cfg.section("maxpool", size=3, stride=1)
    cfg.route(-2)
    cfg.section("maxpool", size=5, stride=1)
    cfg.route(-1, -3, -4)
    cfg.conv(24, 3, groups=2, activation="swish")
    cfg.section("upsample", stride=2)
    cfg.route(-1, 3)
    cfg.yolo([0, 1], 2, "4,4, 12,12")
    return cfg.text()


def cfg_graph(
    text: str,
    seed: int = 0,
    *,
    rounding: Rounding = Rounding.HALF_UP,
    overflow: Overflow = Overflow.SATURATE,
    name: str = "net",
    empty: bool = False,
) -> IntGraph:
    """Return the integer graph of a cfg (convolutions, routes, shortcuts, pools, upsampling) with random codes.

    Shifts bring a random sum near the output's range, so codes vary, saturate and tie in every layer. With `empty` all
    weights are zero, which is enough for planning and fast for large networks.
    """
    builder = _Builder(np.random.default_rng(seed), empty)
    network = build(text)
    builder.tensors[INPUT] = TensorInfo(network.input, INPUT_FORMAT)
    outputs = []
    for layer in network.layers:
        source = builder.add(layer)
        builder.tensor[layer.index] = source
        if isinstance(layer, L.DetectionHead):
            outputs.append(Output(source, layer.spec))
    contract = NumericContract(rounding, overflow)
    graph = IntGraph(name, contract, tuple(builder.nodes), builder.tensors, tuple(outputs))
    if not empty:
        check_graph(graph)
    return graph


class _Builder:
    def __init__(self, rng: np.random.Generator, empty: bool) -> None:
        self.rng = rng
        self.empty = empty
        self.nodes: list[Node] = []
        self.tensors: dict[str, TensorInfo] = {}
        self.tensor: dict[int, str] = {-1: INPUT}

    def add(self, layer: L.Layer) -> str:
        """Append the node of a layer; return the tensor that holds its output."""
        inputs = tuple(self.tensor[i] for i in layer.inputs)
        if isinstance(layer, L.Route) and layer.groups > 1:
            width = layer.in_shapes[0].c // layer.groups
            start = width * layer.group_id
            return self._emit(N.Slice(name=layer.name, inputs=inputs, start=start, stop=start + width), layer.shape)
        if isinstance(layer, L.DetectionHead) or (isinstance(layer, L.Route) and len(inputs) == 1):
            return inputs[0]
        return self._emit(self._node(layer, inputs), layer.shape)

    def _emit(self, node: Node, shape: L.Shape) -> str:
        self.nodes.append(node)
        self.tensors[node.name] = TensorInfo(shape, CODE)
        return node.name

    def _node(self, layer: L.Layer, inputs: tuple[str, ...]) -> Node:
        if isinstance(layer, L.Convolutional):
            return self._conv(layer, inputs)
        if isinstance(layer, L.Pool):
            window = Window((layer.size,) * 2, (layer.stride_y, layer.stride_x), (layer.padding // 2,) * 2)
            return N.MaxPool(name=layer.name, inputs=inputs, window=window)
        if isinstance(layer, L.Route):
            return N.Concat(name=layer.name, inputs=inputs)
        if isinstance(layer, L.Shortcut):
            return N.Add(name=layer.name, inputs=inputs, act=self._activation(layer.activation))
        assert isinstance(layer, L.Upsample), f"{layer.name} has no integer form here"
        return N.Upsample(name=layer.name, inputs=inputs, stride=layer.stride)

    def _conv(self, layer: L.Convolutional, inputs: tuple[str, ...]) -> N.Conv2d:
        k, fan_in = layer.shape.c, layer.in_shapes[0].c // layer.groups * layer.size**2
        bits = 0.5 * np.log2(fan_in)  # a sum of n random terms grows with the root of n
        w_frac = np.full(k, W_FRAC + round(bits)) + self.rng.integers(-1, 2, k)
        pair = (layer.size, layer.size)
        shape = (k, fan_in // layer.size**2, *pair)
        weight = np.zeros(shape, np.int64)
        if not self.empty:
            weight[:] = self.rng.integers(-128, 128, shape, dtype=np.int8)
        return N.Conv2d(
            name=layer.name,
            inputs=inputs,
            weight=weight,
            w_frac=w_frac,
            bias=self.rng.integers(-4000, 4001, k),
            w_bits=8,
            window=Window(
                pair, (layer.stride_y, layer.stride_x), (layer.padding,) * 2, (layer.dilation, layer.dilation)
            ),
            groups=layer.groups,
            act=self._activation(layer.activation),
        )

    def _activation(self, function: str) -> Activation:
        if function == "linear":
            return N.LINEAR
        if function == "leaky":
            return Activation("leaky", slope_mul=51, slope_shift=9)
        if function == "relu":
            return Activation("relu", cap=CODE.hi)
        return Activation(function, table=self.rng.integers(CODE.lo, CODE.hi + 1, 256), table_fmt=CODE)

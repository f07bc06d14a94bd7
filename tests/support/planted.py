# SPDX-License-Identifier: Apache-2.0
"""Planted violations of the integer graph's invariants: for each one graphs that break it, and the node to blame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from support.random_graph import random_graph

from yolo_hw.darknet.layers import HeadSpec, Shape
from yolo_hw.fixedpoint import FixedPoint
from yolo_hw.geometry import Window
from yolo_hw.intgraph import INPUT, INPUT_FORMAT, IntGraph, NumericContract, Output, TensorInfo
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.nodes import Activation, Node

Planted = Iterator[tuple[IntGraph, str]]
"""(broken graph, name that the message must contain)."""


def sound_graph() -> IntGraph:
    """Return the graph the violations are planted in."""
    return random_graph(7, size=(9, 14))


def tiny_graph(*convs: N.Conv2d, contract: NumericContract | None = None, bits: int = 8) -> IntGraph:
    """Return a 1x1 image with convolutions on it, each an output of its own."""
    tensors = {INPUT: TensorInfo(Shape(1, 1, 1), INPUT_FORMAT)}
    tensors |= {conv.name: TensorInfo(Shape(1, 1, 1), FixedPoint(bits, 0)) for conv in convs}
    return IntGraph("tiny", contract or NumericContract(), convs, tensors, tuple(Output(conv.name) for conv in convs))


def point_conv(weight: int = 1, bias: int = 0, w_frac: int = 0, name: str = "point", **fields: Any) -> N.Conv2d:
    """Return a 1x1 convolution of one channel."""
    return N.Conv2d(
        name=name,
        inputs=(INPUT,),
        weight=np.full((1, 1, 1, 1), weight, np.int64),
        w_frac=np.array([w_frac]),
        bias=np.array([bias]),
        window=Window((1, 1)),
        **{"w_bits": 8, **fields},
    )


def _first(graph: IntGraph, node_type: type[Node], accept: Callable[[Any], bool] = lambda node: True) -> Any:
    return next(node for node in graph.nodes if isinstance(node, node_type) and accept(node))


def _changed(graph: IntGraph, node: Node, **fields: Any) -> tuple[IntGraph, str]:
    """Return the graph with some fields of a node replaced, and the node's name."""
    other = replace(node, **fields)
    return replace(graph, nodes=tuple(other if one is node else one for one in graph.nodes)), node.name


def _retyped(graph: IntGraph, name: str, info: TensorInfo) -> tuple[IntGraph, str]:
    return replace(graph, tensors={**graph.tensors, name: info}), name


def _poked(array: np.ndarray, value: int) -> np.ndarray:
    other = array.copy()
    other.reshape(-1)[-1] = value
    return other


def contract_is_supported(g: IntGraph) -> Planted:
    for field, value in (("acc_bits", 64), ("min_shift", -17), ("min_shift", 1), ("max_shift", 48), ("max_shift", -1)):
        yield replace(g, contract=replace(g.contract, **{field: value})), "contract"


def names_are_plain(g: IntGraph) -> Planted:
    for name in ("../up", "a b", "line\n", ".hidden", "", "x" * 129):
        yield replace(g, name=name), name[:80]
        yield _changed(g, g.nodes[-1], name=name)[0], name[:80]


def names_are_unique(g: IntGraph) -> Planted:
    yield replace(g, nodes=(*g.nodes, g.nodes[2])), g.nodes[2].name
    yield _changed(g, g.nodes[-1], name=INPUT)[0], INPUT
    yield replace(g, tensors={k: v for k, v in g.tensors.items() if k != g.nodes[3].name}), g.nodes[3].name
    yield _retyped(g, "stray", g.tensors[INPUT])


def nodes_are_ordered(g: IntGraph) -> Planted:
    yield _changed(g, g.nodes[4], inputs=())
    yield _changed(g, g.nodes[4], inputs=(g.nodes[5].name,))
    yield _changed(g, g.nodes[4], inputs=(g.nodes[4].name,))
    yield _changed(g, g.nodes[4], inputs=("nowhere",))
    yield replace(g, outputs=(*g.outputs, Output("nowhere"))), "nowhere"


def nodes_are_used(g: IntGraph) -> Planted:
    read = {name for node in g.nodes for name in node.inputs}
    unread = next(output.tensor for output in g.outputs if output.tensor not in read)
    yield replace(g, outputs=tuple(output for output in g.outputs if output.tensor != unread)), unread


def input_counts_fit(g: IntGraph) -> Planted:
    mul = _first(g, N.Mul)
    yield _changed(g, mul, inputs=(*mul.inputs, mul.inputs[0]))
    for node_type in (N.Conv2d, N.MaxPool, N.AvgPool, N.Slice, N.Upsample, N.Reorg):
        node = _first(g, node_type)
        yield _changed(g, node, inputs=node.inputs * 2)


def arrays_fit(g: IntGraph) -> Planted:
    conv = _first(g, N.Conv2d, lambda conv: conv.groups == 1)
    yield _changed(g, conv, groups=0)
    yield _changed(g, conv, groups=1000)
    yield _changed(g, conv, weight=conv.weight[0])
    yield _changed(g, conv, weight=conv.weight[:, 1:])
    yield _changed(g, conv, weight=conv.weight[:, :, :, :0])
    yield _changed(g, conv, bias=conv.bias[1:])
    yield _changed(g, conv, w_frac=conv.w_frac[:1].reshape(1, 1))


def windows_fit(g: IntGraph) -> Planted:
    for node_type in (N.Conv2d, N.MaxPool):
        node = _first(g, node_type, lambda node: node.window.taps > 1)
        w = node.window
        yield _changed(g, node, window=replace(w, stride=(0, 1)))
        yield _changed(g, node, window=replace(w, dilation=(1, 0)))
        yield _changed(g, node, window=replace(w, pad=(0, -1)))
        yield _changed(g, node, window=replace(w, pad=(w.extent(0), 0)))
        yield _changed(g, node, window=replace(w, stride=(1000, 1) if g.tensors[node.name].shape.h > 1 else (1, 1000)))
    yield _changed(g, _first(g, N.MaxPool), window=Window((2, 2), dilation=(2, 2)))
    yield _retyped(tiny_graph(point_conv()), "point", TensorInfo(Shape(1, 1, 2), FixedPoint(8, 0)))


def shapes_are_consistent(g: IntGraph) -> Planted:
    piece = _first(g, N.Slice)
    yield _changed(g, piece, start=-1)
    yield _changed(g, piece, stop=piece.stop + 1000)
    yield _changed(g, piece, start=piece.stop, stop=piece.stop)
    concat = _first(g, N.Concat)
    yield _changed(g, concat, inputs=concat.inputs + concat.inputs[:1])
    yield _changed(g, concat, inputs=(*concat.inputs, INPUT))
    yield _changed(g, _first(g, N.Add), inputs=(*_first(g, N.Add).inputs, INPUT))
    scale = _first(g, N.Mul, lambda mul: g.tensors[mul.inputs[0]].shape != g.tensors[mul.inputs[1]].shape)
    yield _changed(g, scale, inputs=scale.inputs[::-1])
    yield _changed(g, _first(g, N.Upsample), stride=7)
    for node in (node for node in g.nodes if isinstance(node, N.Reorg)):
        yield _changed(g, node, stride=0)
        yield _changed(g, node, stride=17)
        yield _changed(g, node, mode="other")
        yield _changed(g, node, reverse=not node.reverse)


def moving_nodes_keep_format(g: IntGraph) -> Planted:
    for node_type in (N.MaxPool, N.Concat, N.Slice, N.Upsample, N.Reorg):
        name = _first(g, node_type).name
        info = g.tensors[name]
        yield _retyped(g, name, replace(info, fmt=replace(info.fmt, frac=info.fmt.frac + 1)))


def weights_are_in_range(g: IntGraph) -> Planted:
    conv = _first(g, N.Conv2d)
    for bits in (1, 17):
        yield _changed(g, conv, w_bits=bits)
    yield _changed(g, conv, w_bits=4, weight=_poked(conv.weight.clip(-8, 7), 8))
    yield _changed(g, conv, w_bits=4, weight=_poked(conv.weight.clip(-8, 7), -9))


def biases_fit_int32(g: IntGraph) -> Planted:
    conv = _first(g, N.Conv2d)
    yield _changed(g, conv, bias=_poked(conv.bias, 1 << 31))
    yield _changed(g, conv, bias=_poked(conv.bias, -(1 << 31) - 1))


def accumulators_fit(g: IntGraph) -> Planted:
    top = (1 << 31) - 1
    yield tiny_graph(point_conv(weight=1, bias=top - 254)), "point"
    yield tiny_graph(point_conv(weight=-1, bias=-(1 << 31) + 254)), "point"
    steep = Activation("leaky", slope_mul=65535, slope_shift=0)  # 32 + 16 + 16 bits
    yield tiny_graph(point_conv(weight=1, bias=top - 255, w_frac=-24, act=steep)), "point"


def shifts_are_legal(g: IntGraph) -> Planted:
    yield tiny_graph(point_conv(w_frac=-25)), "point"  # shift = 8 - 25 - 0
    yield tiny_graph(point_conv(w_frac=40)), "point"
    yield tiny_graph(point_conv(w_frac=31, act=Activation("leaky", slope_mul=51, slope_shift=9))), "point"
    narrow = NumericContract(min_shift=0, max_shift=16)
    yield tiny_graph(point_conv(w_frac=9), contract=narrow), "point"
    yield tiny_graph(point_conv(w_frac=-9), contract=narrow), "point"


def alignments_are_legal(g: IntGraph) -> Planted:
    coarse, fine = point_conv(name="coarse"), point_conv(name="fine", w_frac=32)
    graph = tiny_graph(coarse, fine, contract=NumericContract(acc_bits=48))
    total = N.Add(name="total", inputs=("coarse", "fine"))
    tensors = {**graph.tensors, "total": graph.tensors["coarse"]}
    tensors["fine"] = TensorInfo(Shape(1, 1, 1), FixedPoint(8, 32))
    yield replace(graph, nodes=(coarse, fine, total), tensors=tensors, outputs=(Output("total"),)), "total"


def activations_are_valid(g: IntGraph) -> Planted:
    fmt = FixedPoint(4, 0)
    table = np.zeros(16, np.int64)
    for act in (
        Activation("mish", table=table),
        Activation("mish", table_fmt=fmt),
        Activation("mish", table=table[1:], table_fmt=fmt),
        Activation("mish", table=_poked(table, 128), table_fmt=fmt),
        Activation("mish", table=_poked(table, -129), table_fmt=fmt),
        Activation("mish"),
        Activation("relu", cap=128),
        Activation("relu6", cap=-1),
        Activation("leaky", slope_mul=1 << 16),
        Activation("leaky", slope_mul=0),
        Activation("leaky", slope_mul=-51, slope_shift=9),
        Activation("leaky", slope_shift=32),
        Activation("leaky", slope_shift=-1),
        Activation("linear", slope_mul=51, slope_shift=9),
    ):
        yield tiny_graph(point_conv(act=act)), "point"


def averages_are_exact(g: IntGraph) -> Planted:
    node = _first(g, N.AvgPool)
    yield _changed(g, node, mul=node.mul + 1)
    yield _changed(g, node, mul_shift=node.mul_shift - 1)


def heads_fit(g: IntGraph) -> Planted:
    head = HeadSpec(kind="yolo", classes=2, anchors=((1.0, 2.0),))
    name = next(output.tensor for output in g.outputs if g.tensors[output.tensor].shape.c != head.channels)
    yield replace(g, outputs=(Output(name, head), *(output for output in g.outputs if output.tensor != name))), name

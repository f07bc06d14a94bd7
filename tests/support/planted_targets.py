# SPDX-License-Identifier: Apache-2.0
"""A strict target, a graph that it can compute, and for every field a change that breaks its rule alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from yolo_hw.darknet.layers import Shape
from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.geometry import Window
from yolo_hw.intgraph import INPUT, INPUT_FORMAT, IntGraph, NumericContract, Output, TensorInfo
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.nodes import Activation, Node
from yolo_hw.intgraph.target import Slope, Span, TargetProfile

STRICT = TargetProfile(
    name="strict",
    about="Every field allows as little as the legal graph needs, or one step more.",
    roundings=(Rounding.HALF_UP,),
    overflows=(Overflow.SATURATE,),
    w_bits=(8,),
    a_bits=(8,),
    unsigned=False,
    image_bytes=False,
    per_channel=False,
    conv_shift=Span(0, 12),
    element_shift=Span(-2, 4),
    align_shift=Span(0, 3),
    equal_add=True,
    acc_bits=16,
    acc_frac=Span(5, 12),
    bias_bits=8,
    bias_shift=Span(1, 4),
    a_frac=Span(-4, 5),
    w_frac=Span(0, 9),
    leaky=(Slope(1, 3),),
    activations=("linear", "leaky", "logistic"),
    table_bits=6,
    ops=("conv2d", "add", "maxpool", "concat"),
)
CHANNELS = 2
SHAPE = Shape(CHANNELS, 4, 4)


def strict_graph() -> IntGraph:
    """Return a graph that breaks no rule of `STRICT`."""
    table = Activation("logistic", table=np.zeros(64, np.int64), table_fmt=FixedPoint(6, 2))
    nodes = (
        N.Add(name="image", inputs=(INPUT,)),
        _conv("first", "image", w_frac=4, act=Activation("leaky", slope_mul=1, slope_shift=3)),
        _conv("left", "first"),
        _conv("right", "first"),
        N.Add(name="sum", inputs=("left", "right")),
        N.Concat(name="both", inputs=("left", "first")),
        _conv("squashed", "first", act=table),
        _conv("last", "first"),
    )
    fracs = {"image": 5, "first": 1, "left": 1, "right": 1, "sum": 1, "both": 1, "squashed": 3, "last": 3}
    tensors = {INPUT: TensorInfo(SHAPE, INPUT_FORMAT)}
    tensors |= {name: TensorInfo(SHAPE, FixedPoint(8, frac)) for name, frac in fracs.items()}
    tensors["both"] = TensorInfo(Shape(2 * CHANNELS, 4, 4), tensors["both"].fmt)
    outputs = tuple(Output(name) for name in ("sum", "both", "squashed", "last"))
    return IntGraph("strict", NumericContract(), nodes, tensors, outputs)


def _conv(name: str, source: str, w_frac: int = 6, **fields: Any) -> N.Conv2d:
    return N.Conv2d(
        name=name,
        inputs=(source,),
        weight=np.full((CHANNELS, CHANNELS, 1, 1), 3, np.int64),
        w_frac=np.full(CHANNELS, w_frac),
        bias=np.array([0, 6]),
        w_bits=8,
        window=Window((1, 1)),
        **fields,
    )


class Plant(NamedTuple):
    """A broken graph, where the violation is, and the profile if `STRICT` would break two rules at once."""

    graph: IntGraph
    node: str
    channel: int | None
    found: str
    profile: TargetProfile = STRICT


def _change(g: IntGraph, name: str, **fields: Any) -> IntGraph:
    return replace(g, nodes=tuple(replace(node, **fields) if node.name == name else node for node in g.nodes))


def _format(g: IntGraph, name: str, **fields: Any) -> IntGraph:
    info = g.tensors[name]
    return replace(g, tensors={**g.tensors, name: TensorInfo(info.shape, replace(info.fmt, **fields))})


def _contract(g: IntGraph, **fields: Any) -> IntGraph:
    return replace(g, contract=replace(g.contract, **fields))


def _append(g: IntGraph, node: Node, info: TensorInfo) -> IntGraph:
    return replace(g, nodes=(*g.nodes, node), tensors={**g.tensors, node.name: info})


def _w_frac(g: IntGraph, *fracs: int) -> IntGraph:
    return _change(g, "last", w_frac=np.array(fracs))


def _table(bits: int, frac: int = 2) -> Activation:
    return Activation("logistic", table=np.zeros(1 << bits, np.int64), table_fmt=FixedPoint(bits, frac))


LEAKY_TENTH = Activation("leaky", slope_mul=51, slope_shift=9)
ALIGNING = replace(STRICT, equal_add=False)
UPSAMPLE = N.Upsample(name="large", inputs=("last",), stride=2)
UPSAMPLED = TensorInfo(Shape(CHANNELS, 8, 8), FixedPoint(8, 3))

PLANTS: dict[str, Callable[[IntGraph], list[Plant]]] = {
    "roundings": lambda g: [Plant(_contract(g, rounding=Rounding.FLOOR), "contract", None, "floor")],
    "overflows": lambda g: [Plant(_contract(g, overflow=Overflow.WRAP), "contract", None, "wrap")],
    "w_bits": lambda g: [Plant(_change(g, "last", w_bits=7), "last", None, "7")],
    "a_bits": lambda g: [Plant(_format(g, "last", bits=7), "last", None, "7")],
    "unsigned": lambda g: [Plant(_format(g, "last", signed=False), "last", None, "u8f3")],
    "image_bytes": lambda g: [
        Plant(
            _change(g, "first", inputs=(INPUT,), w_frac=np.full(CHANNELS, 3)), "first", None, "the image itself (u8f8)"
        )
    ],
    "per_channel": lambda g: [Plant(_w_frac(g, 6, 7), "last", None, "7")],
    "conv_shift": lambda g: [Plant(_format(_w_frac(g, 9, 9), "last", frac=-3), "last", 0, "13")],
    "element_shift": lambda g: [
        Plant(_format(g, "sum", frac=4), "sum", None, "-3"),
        Plant(_format(g, "sum", frac=-4), "sum", None, "5"),
    ],
    "align_shift": lambda g: [Plant(_format(g, "right", frac=-3), "sum", None, "4", ALIGNING)],
    "equal_concat": lambda g: [Plant(_format(g, "both", frac=2), "both", None, "s8f1 s8f1 s8f2")],
    "equal_add": lambda g: [Plant(_format(g, "right", frac=0), "sum", None, "1")],
    "acc_bits": lambda g: [
        Plant(_change(g, "last", weight=_poked(127, 127, -128), bias=np.array([0, 0x7F << 4])), "last", 1, "17"),
    ],
    "acc_frac": lambda g: [Plant(_format(_w_frac(g, 3, 3), "last", frac=3), "last", 0, "4")],
    "bias_bits": lambda g: [
        Plant(_change(g, "last", bias=np.array([0, 2 * 255])), "last", 1, "9"),
        Plant(_change(g, "last", bias=np.array([32, 128 << 5])), "last", 1, "10"),
    ],
    "bias_shift": lambda g: [Plant(_change(g, "last", bias=np.array([4, 3])), "last", 0, "0")],
    "a_frac": lambda g: [
        Plant(_format(_w_frac(g, 9, 9), "last", frac=6), "last", None, "6"),
        Plant(_change(g, "squashed", act=_table(6, frac=6)), "squashed", None, "6 in its table"),
    ],
    "w_frac": lambda g: [Plant(_w_frac(g, 10, 10), "last", 0, "10")],
    "leaky": lambda g: [Plant(_change(g, "first", act=LEAKY_TENTH), "first", None, "51/2**9")],
    "activations": lambda g: [Plant(_change(g, "last", act=Activation("relu", cap=127)), "last", None, "relu")],
    "table_bits": lambda g: [Plant(_change(g, "squashed", act=_table(7)), "squashed", None, "7")],
    "ops": lambda g: [Plant(_append(g, UPSAMPLE, UPSAMPLED), "large", None, "upsample")],
}


def _poked(*values: int) -> np.ndarray:
    weight = np.full((CHANNELS, CHANNELS, 1, 1), 3, np.int64)
    weight.reshape(-1)[-len(values) :] = values
    return weight

# SPDX-License-Identifier: Apache-2.0
"""Building blocks of random integer graphs: a builder, convolutions with sensible shifts, adds and products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from yolo_hw.darknet.layers import HeadSpec, Shape
from yolo_hw.fixedpoint import FixedPoint, IntArray
from yolo_hw.geometry import Window
from yolo_hw.intgraph import INPUT, IntGraph, NumericContract, Output, TensorInfo, check_graph
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.bounds import accumulator_bound
from yolo_hw.intgraph.nodes import Activation, Node

SLOPES = ((51, 9), (1, 3), (26, 8), (3276, 15), (1, 0))
TABLE_FUNCTIONS = ("mish", "swish", "logistic", "h_swish", "h_sigmoid", "elu")
HEAD = HeadSpec(kind="yolo", classes=1, anchors=((10.0, 14.0), (23.0, 27.5)))
MAX_LEFT_SHIFT = 6


@dataclass
class GraphBuilder:
    rng: Generator
    contract: NumericContract
    max_channels: int
    bits: tuple[int, ...]
    unusual: bool = False
    """Also windows and shifts that no network needs: sides of 4 and 7, unequal dilations, shifts at both limits."""
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, TensorInfo] = field(default_factory=dict)

    def pick(self, accept: Callable[[TensorInfo], bool] = lambda info: True) -> str:
        """Return a computed tensor that fits, recent ones more often; make one if there is none."""
        names = [name for name, info in self.tensors.items() if name != INPUT and accept(info)]
        if not names:
            return append_conv(self, INPUT)
        recent = self.rng.random() < 0.5
        return names[int(self.rng.integers(max(len(names) - 3, 0) if recent else 0, len(names)))]

    def name(self, kind: str) -> str:
        return f"{kind}_{len(self.nodes)}" + (".part0" if self.rng.random() < 0.1 else "")

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def number(self, low: int, high: int) -> int:
        """Return an integer in [low, high]."""
        return int(self.rng.integers(low, high + 1))

    def word(self) -> int:
        return int(self.rng.choice(self.bits))

    def fmt(self, frac: int | None = None) -> FixedPoint:
        bits = self.word()
        signed = bits == 16 or self.chance(0.6)
        return FixedPoint(bits, self.number(-2, 9) if frac is None else frac, signed)

    def emit(self, node: Node, shape: Sequence[int], fmt: FixedPoint) -> str:
        self.nodes.append(node)
        self.tensors[node.name] = TensorInfo(Shape(*map(int, shape)), fmt)
        return node.name

    def finish(self, name: str, head: str) -> IntGraph:
        read = {source for node in self.nodes for source in node.inputs}
        loose = [name for name in self.tensors if name not in read and name not in (head, INPUT)]
        also = [name for name in self.tensors if name in read and name != INPUT and self.chance(0.1)]
        outputs = [Output(head, HEAD), *(Output(name) for name in [*loose, *also] if name != head)]
        graph = IntGraph(name, self.contract, tuple(self.nodes), dict(self.tensors), tuple(outputs))
        check_graph(graph)
        return graph


def random_activation(b: GraphBuilder, out: FixedPoint, kind: str | None = None) -> Activation:
    kind = kind or str(b.rng.choice(["linear", "leaky", "relu", "relu6", "table"]))
    if kind == "leaky":
        mul, shift = SLOPES[b.number(0, len(SLOPES) - 1)]
        return Activation("leaky", slope_mul=mul, slope_shift=shift)
    if kind in ("relu", "relu6"):
        return Activation(kind, cap=out.hi if kind == "relu" else b.number(0, out.hi))
    if kind == "table":
        fmt = b.fmt()
        codes = b.rng.integers(out.lo, out.hi + 1, 1 << fmt.bits)
        return Activation(str(b.rng.choice(TABLE_FUNCTIONS)), table=codes, table_fmt=fmt)
    return N.LINEAR


def random_window(b: GraphBuilder, shape: Shape) -> tuple[Window, tuple[int, int]]:
    """Return a window and an output size with which every window touches the map, often asymmetric."""
    side = int(b.rng.choice([1, 2, 3, 3, 5]))
    size = (side, side) if b.chance(0.8) else (side, int(b.rng.choice([1, 3])))
    stride = (1, 1) if b.chance(0.5) else ((2, 2) if b.chance(0.6) else (b.number(1, 3), b.number(1, 2)))
    dilation = (2, 2) if b.chance(0.2) else (1, 1)
    if b.unusual and b.chance(0.2):
        size, dilation = (b.number(1, 7), b.number(1, 7)), (b.number(1, 3), b.number(1, 3))
    window = Window(size, stride, (0, 0), dilation)
    pad = (b.number(0, window.extent(0) - 1), b.number(0, window.extent(1) - 1))
    if b.chance(0.6):
        pad = (min(pad[0], (window.extent(0) - 1) // 2), min(pad[1], (window.extent(1) - 1) // 2))
    window = Window(size, stride, pad, dilation)
    largest = [(shape[1 + axis] - 1 + pad[axis]) // stride[axis] + 1 for axis in (0, 1)]
    inside = [(shape[1 + axis] + 2 * pad[axis] - window.extent(axis)) // stride[axis] + 1 for axis in (0, 1)]
    usual = [min(max(inside[axis], 1), largest[axis]) for axis in (0, 1)]
    return window, tuple(n if b.chance(0.8) else b.number(1, most) for n, most in zip(usual, largest, strict=True))


def random_parameters(b: GraphBuilder, weight_shape: tuple[int, ...], x: FixedPoint) -> tuple[IntArray, IntArray, int]:
    """Return weight codes, bias codes and w_bits; some biases use up the whole 32 bits."""
    bits = b.word()
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    weight = b.rng.integers(low, high + 1, weight_shape)
    if b.chance(0.2):
        weight = np.where(weight < 0, low, high)
    reach = np.abs(weight).reshape(weight_shape[0], -1).sum(1) * max(x.hi, -x.lo)
    bias = b.rng.integers(-1000, 1001, weight_shape[0]) * np.maximum(reach, 1) // 4000
    room = (1 << 31) - 1 - reach
    extreme = (b.rng.random(weight_shape[0]) < 0.05) & (room > 0)
    bias = np.where(extreme, np.where(bias < 0, -room - 1, room), bias)
    limit = (1 << 31) - 1
    return weight, np.clip(bias, -limit - 1, limit), bits


def append_conv(
    b: GraphBuilder,
    source: str,
    *,
    channels: int = 0,
    kind: str = "dense",
    window: tuple[Window, tuple[int, int]] | None = None,
    out: FixedPoint | None = None,
    act: Activation | None = None,
) -> str:
    """Append a convolution whose shift brings the accumulators near the output's range."""
    x = b.tensors[source]
    window, (h, w) = window or random_window(b, x.shape)
    groups = x.shape.c if kind == "depthwise" else 1
    if kind == "grouped":
        groups = int(b.rng.choice([g for g in range(1, x.shape.c + 1) if x.shape.c % g == 0]))
    k = x.shape.c if kind == "depthwise" else channels or groups * b.number(1, max(b.max_channels // groups, 1))
    out = out or b.fmt()
    act = act or random_activation(b, out)
    weight, bias, w_bits = random_parameters(b, (k, x.shape.c // groups, *window.size), x.fmt)
    fields = {"weight": weight, "bias": bias, "w_bits": w_bits, "window": window, "groups": groups, "act": act}
    draft = N.Conv2d(name=b.name("conv"), inputs=(source,), w_frac=np.zeros(k, np.int64), **fields)
    bound = accumulator_bound(draft, [x])
    assert bound is not None
    code = act.table_fmt or out
    matrix = np.abs(weight).reshape(k, -1).sum(1) * max(x.fmt.hi, -x.fmt.lo) + np.abs(bias)
    shift = np.ceil(np.log2(np.maximum(matrix, 1))).astype(np.int64) - code.bits + b.rng.integers(-2, 3, k)
    left = min(63 - bound.bits - max(act.slope_mul, 1).bit_length(), MAX_LEFT_SHIFT)
    if b.unusual and b.chance(0.3):
        shift = np.where(b.rng.random(k) < 0.5, b.rng.choice([-left, 0, 31, b.contract.max_shift], k), shift)
    shift = np.clip(shift, -left, b.contract.max_shift - act.slope_shift)
    w_frac = shift + code.frac - x.fmt.frac
    return b.emit(N.Conv2d(name=draft.name, inputs=(source,), w_frac=w_frac, **fields), (k, h, w), out)


def same_size(shape: Shape) -> tuple[Window, tuple[int, int]]:
    return Window((1, 1)), (shape.h, shape.w)


def append_computed(b: GraphBuilder, node_type: type[Node], sources: tuple[str, ...]) -> str:
    """Append an add or mul whose output frac follows from the inputs."""
    infos = [b.tensors[name] for name in sources]
    draft = node_type(name="draft", inputs=sources)
    bound = accumulator_bound(draft, infos)
    requant = draft.requant(infos, TensorInfo(infos[0].shape, FixedPoint(8, 0)))
    assert bound is not None
    assert requant is not None
    fmt = b.fmt(0)
    frac = int(requant.shift[0]) - max(bound.bits - fmt.bits + b.number(-3, 1), -MAX_LEFT_SHIFT)
    fmt = FixedPoint(fmt.bits, frac, fmt.signed)
    act = random_activation(b, fmt)
    if act.table_fmt is not None:
        argument = FixedPoint(act.table_fmt.bits, frac, act.table_fmt.signed)
        act = Activation(act.function, table=act.table, table_fmt=argument)
    node = node_type(name=b.name(node_type.op), inputs=sources, act=act)
    return b.emit(node, infos[0].shape, fmt)

# SPDX-License-Identifier: Apache-2.0
"""An integer graph as float operators with a rounding after each: what QDQ and QONNX have in common.

Every tensor of the graph becomes the real numbers ``code * 2**-frac`` in float32. The two formats differ in how they
say "round to this format", which is their `Rounder`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import onnx

from yolo_hw.errors import ExportError
from yolo_hw.fixedpoint import FixedPoint, IntArray, Overflow
from yolo_hw.interop.onnx_graph import OnnxBuilder, Port, Settle
from yolo_hw.interop.onnx_metadata import graph_metadata
from yolo_hw.interop.onnx_moves import emit_move
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.graph import INPUT, IntGraph
from yolo_hw.intgraph.nodes import Node
from yolo_hw.intgraph.requant import Requant

MAX_EXPONENT = 126
"""A step of ``2**-frac`` up to this is a normal float32."""


class Rounder(Protocol):
    """How a format states that a tensor has fixed-point codes."""

    form: str
    opset: int
    domains: dict[str, int]

    def image(self, b: OnnxBuilder, fmt: FixedPoint) -> tuple[type[Any] | np.dtype[Any], str]:
        """Return the element type of the model's input, and the tensor that holds its real numbers."""

    def limits(self, fmt: FixedPoint) -> tuple[int, int]:
        """Return the codes that `rounded` itself saturates at."""

    def rounded(self, b: OnnxBuilder, x: str, fmt: FixedPoint, out: str) -> None:
        """Round real numbers to a format and saturate."""

    def moved(self, b: OnnxBuilder, x: str, fmt: FixedPoint, out: str) -> None:
        """State the format of numbers that have it already."""

    def parameter(self, b: OnnxBuilder, codes: IntArray, frac: IntArray, bits: int, out: str) -> str:
        """Add codes [K, ...] with `frac` [K] as real numbers."""


def real_model(graph: IntGraph, rounder: Rounder, batch: int | None) -> onnx.ModelProto:
    """Return the model: an input as the rounder wants it, outputs [N, K, h, w] float32 real numbers.

    Raises:
        ExportError: A format whose step is no float32.
    """
    form = _RealForm(graph, rounder, batch)
    for node in graph.nodes:
        form.add(node)
    names = form.b.outputs([form.real[output.tensor] for output in graph.outputs], [INPUT])
    source = Port(INPUT, form.input_dtype, graph.input_shape)
    ports = [
        Port(name, np.float32, graph.tensors[output.tensor].shape)
        for name, output in zip(names, graph.outputs, strict=True)
    ]
    metadata = graph_metadata(graph, rounder.form, names)
    return form.b.finish([source], ports, metadata, opset=rounder.opset, domains=rounder.domains)


def step_of(frac: int, name: str) -> float:
    """Return ``2**-frac``.

    Raises:
        ExportError: It is no normal float32.
    """
    if abs(frac) > MAX_EXPONENT:
        raise ExportError(f"{name}: the step 2**{-frac} is no float32; its exponent must be at most {MAX_EXPONENT}")
    return float(2.0**-frac)


def steps_of(frac: IntArray, name: str) -> list[float]:
    """Return ``2**-frac`` of every element."""
    return [step_of(int(value), name) for value in frac]


class _RealForm:
    """Emits the nodes of a graph; `real` maps a tensor to the name of its real numbers."""

    def __init__(self, graph: IntGraph, rounder: Rounder, batch: int | None) -> None:
        self.graph, self.rounder = graph, rounder
        self.b = OnnxBuilder(graph.name, batch)
        self.input_dtype, image = rounder.image(self.b, graph.tensors[INPUT].fmt)
        self.real = {INPUT: image, **{node.name: node.name for node in graph.nodes}}
        self._compute: dict[type[Node], Callable[..., str]] = {
            N.Conv2d: self._conv2d,
            N.Add: self._add,
            N.Mul: self._mul,
            N.AvgPool: self._avgpool,
        }

    def add(self, node: Node) -> None:
        """Add a node; its real numbers get its name."""
        infos, out = self.graph.inputs_of(node), self.graph.output_of(node)
        requant = node.requant(infos, out)
        if requant is not None:
            self._activate(node, self._compute[type(node)](node), requant)
            return
        inputs, moved = [self.real[name] for name in node.inputs], f"{node.name}/moved"
        if isinstance(node, N.MaxPool):
            shapes, settle = (infos[0].shape, out.shape), self._settle(out.fmt)
            x, window = self.b.windowed(inputs[0], node.window, shapes, node.name, settle)
            self.b.emit("MaxPool", [x], moved, **window)
        else:
            emit_move(self.b, node, inputs, infos[0].shape, moved, settle=self._settle(out.fmt))
        self.rounder.moved(self.b, moved, out.fmt, node.name)

    def _settle(self, fmt: FixedPoint) -> Settle:
        """Return what states the format of a moved map; operators that move stand alone between two of these."""

        def settle(x: str) -> str:
            self.rounder.moved(self.b, x, fmt, f"{x}/again")
            return f"{x}/again"

        return settle

    def _conv2d(self, node: N.Conv2d) -> str:
        b, name, source = self.b, node.name, self.graph.inputs_of(node)[0]
        shapes = source.shape, self.graph.output_of(node).shape
        x, window = b.windowed(self.real[node.inputs[0]], node.window, shapes, name, self._settle(source.fmt))
        weight = self.rounder.parameter(b, node.weight, node.w_frac, node.w_bits, f"{name}/weight")
        bias = self.rounder.parameter(b, node.bias, node.w_frac + source.fmt.frac, 32, f"{name}/bias")
        return b.emit("Conv", [x, weight, bias], f"{name}/exact", group=node.groups, **window)

    def _add(self, node: N.Add) -> str:
        total = self.real[node.inputs[0]]
        for i, name in enumerate(node.inputs[1:]):
            total = self.b.emit("Add", [total, self.real[name]], f"{node.name}/sum{i}")
        return total

    def _mul(self, node: N.Mul) -> str:
        return self.b.emit("Mul", [self.real[name] for name in node.inputs], f"{node.name}/exact")

    def _avgpool(self, node: N.AvgPool) -> str:
        return self.b.emit("GlobalAveragePool", [self.real[node.inputs[0]]], f"{node.name}/exact")

    def _activate(self, node: Node, x: str, requant: Requant) -> None:
        """Add activation, saturation and rounding of computed numbers `x`."""
        b, name, out = self.b, node.name, self.graph.output_of(node).fmt
        if requant.table is not None:
            self.rounder.moved(b, self._looked_up(name, x, requant, out), out, name)
            return
        if (requant.mul_neg, requant.shift_neg) != (1, 0) and not isinstance(node, N.AvgPool):
            x = b.emit("LeakyRelu", [x], f"{name}/leaky", alpha=requant.mul_neg * 2.0**-requant.shift_neg)
        self.rounder.rounded(b, self._bounded(x, requant, f"{name}/bounded"), out, name)

    def _bounded(self, x: str, requant: Requant, out: str) -> str:
        """Clamp to what the node allows, where that is less than the rounding's own range."""
        fmt, (native_lo, native_hi) = requant.code, self.rounder.limits(requant.code)
        symmetric = self.graph.contract.overflow is Overflow.SATURATE_SYMMETRIC and fmt.signed
        lo, hi = max(-fmt.hi if symmetric else fmt.lo, requant.clamp_lo), min(fmt.hi, requant.clamp_hi)
        if (lo, hi) == (native_lo, native_hi):
            return x
        if (lo, hi) == (0, native_hi):
            return self.b.emit("Relu", [x], out)
        ends = [self.b.constant(code * step_of(fmt.frac, out), np.float32) for code in (lo, hi)]
        return self.b.emit("Clip", [x, *ends], out)

    def _looked_up(self, name: str, x: str, requant: Requant, out: FixedPoint) -> str:
        """Round to the table's argument and gather the table's real numbers."""
        assert requant.table is not None
        b, fmt = self.b, requant.code
        argument = f"{name}/argument"
        self.rounder.rounded(b, self._bounded(x, requant, f"{name}/bounded"), fmt, argument)
        code = b.emit("Mul", [argument, b.constant(1 / step_of(fmt.frac, name), np.float32)], f"{name}/code")
        index = b.emit("Sub", [code, b.constant(fmt.lo, np.float32)], f"{name}/position")
        entries = b.constant(requant.table * step_of(out.frac, name), np.float32)
        return b.emit("Gather", [entries, b.cast(index, np.int64, f"{name}/index")], f"{name}/looked_up")

# SPDX-License-Identifier: Apache-2.0
"""An integer graph as ONNX without a single float: codes in, the same codes out as every other implementation.

Between nodes codes have their storage type (int8, uint8, int16, uint16); nodes compute in int64. Convolutions
are ConvInteger on unsigned bytes: a signed byte is stored as q + 128 with zero point 128, a longer word as two bytes,
so that a 16-bit convolution is four of bytes whose sums are put together in int64. Both operands are unsigned on
purpose: on x86 without VNNI the usual kernel for unsigned maps and signed weights saturates sums of two products at 16
bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from yolo_hw.fixedpoint import FixedPoint, IntArray
from yolo_hw.interop.onnx_graph import OnnxBuilder, Port, save_model
from yolo_hw.interop.onnx_metadata import graph_metadata
from yolo_hw.interop.onnx_moves import emit_move
from yolo_hw.interop.onnx_requant import emit_requant
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.graph import INPUT, IntGraph
from yolo_hw.intgraph.nodes import Node

BYTE = 1 << 8
BYTE_BITS = 8
OFFSET = 1 << 7
"""Added to a signed byte, and its zero point."""
MAX_TAPS = ((1 << 31) - 1) // (BYTE - 1) ** 2
"""So many products of two bytes have a sum that fits int32, which is what ConvInteger returns."""


class Digit(NamedTuple):
    """One byte of every code: ``code = sum((tensor - zero) << shift)`` over its digits.

    Attributes:
        tensor: [..] uint8.
        zero: Its zero point.
        shift: 0 or 8.
    """

    tensor: str
    zero: int
    shift: int


def export_integer_onnx(graph: IntGraph, path: str | Path, *, batch: int | None = 1) -> None:
    """Write an integer graph as ONNX (opset 13) in pure integers.

    The input ``input`` is [N, C, H, W] codes in their storage type, for an image its uint8 bytes; every output of the
    graph is [N, K, H, W] codes in theirs, called like its tensor. The codes equal those of `intgraph.execute` and of
    the engine, for every node kind, rounding, overflow and word length. `onnx_metadata` says how formats are stated.

    Args:
        graph: A checked graph.
        path: The file.
        batch: Images per run; None leaves the number free.

    Raises:
        ExportError: The model does not fit one ONNX file.
    """
    save_model(integer_model(graph, batch), path)


def integer_model(graph: IntGraph, batch: int | None = 1) -> onnx.ModelProto:
    """Return the model that `export_integer_onnx` writes."""
    form = _IntegerForm(graph, batch)
    for node in graph.nodes:
        form.add(node)
    names = form.b.outputs([output.tensor for output in graph.outputs], [INPUT])
    ports = [form.port(name, output.tensor) for name, output in zip(names, graph.outputs, strict=True)]
    return form.b.finish([form.port(INPUT, INPUT)], ports, graph_metadata(graph, "integer", names))


class _IntegerForm:
    """Emits the nodes of a graph; `wide` and `digits` convert a tensor once for all its readers."""

    def __init__(self, graph: IntGraph, batch: int | None) -> None:
        self.graph = graph
        self.b = OnnxBuilder(graph.name, batch)
        self._wide: dict[str, str] = {}
        self._digits: dict[str, list[Digit]] = {}
        self._accumulate: dict[type[Node], Callable[..., str]] = {
            N.Conv2d: self._conv2d,
            N.Add: self._add,
            N.Mul: self._mul,
            N.AvgPool: self._avgpool,
        }

    def port(self, name: str, tensor: str) -> Port:
        """Return an input or output that holds the codes of `tensor`."""
        info = self.graph.tensors[tensor]
        return Port(name, info.fmt.storage_dtype, info.shape)

    def add(self, node: Node) -> None:
        """Add a node; its output's codes get its name."""
        infos, out = self.graph.inputs_of(node), self.graph.output_of(node)
        requant = node.requant(infos, out)
        if requant is not None:
            acc = self._accumulate[type(node)](node)
            codes = emit_requant(self.b, node.name, acc, requant, self.graph.contract)
            self._narrow(node, codes)
        elif isinstance(node, N.MaxPool):
            self._narrow(node, self._maxpool(node))
        else:
            emit_move(self.b, node, node.inputs, infos[0].shape, node.name)

    def _narrow(self, node: Node, codes: str) -> None:
        self.b.cast(codes, self.graph.output_of(node).fmt.storage_dtype, node.name)

    def wide(self, tensor: str) -> str:
        """Return the codes of a tensor as int64."""
        if tensor not in self._wide:
            self._wide[tensor] = self.b.cast(tensor, np.int64, f"{tensor}/int64")
        return self._wide[tensor]

    def digits(self, tensor: str) -> list[Digit]:
        """Return the codes of a tensor as unsigned bytes."""
        if tensor not in self._digits:
            self._digits[tensor] = self._split(tensor, self.graph.tensors[tensor].fmt)
        return self._digits[tensor]

    def _split(self, tensor: str, fmt: FixedPoint) -> list[Digit]:
        zero = OFFSET if fmt.signed else 0
        if fmt.storage_bytes == 1:
            return [Digit(self._byte(self.wide(tensor), zero, f"{tensor}/byte") if zero else tensor, zero, 0)]
        size = self.b.constant(BYTE, np.int64)
        low = self.b.emit("Mod", [self.wide(tensor), size], f"{tensor}/low")
        rest = self.b.emit("Sub", [self.wide(tensor), low], f"{tensor}/rest")
        high = self.b.emit("Div", [rest, size], f"{tensor}/high")
        return [
            Digit(self._byte(low, 0, f"{tensor}/low_byte"), 0, 0),
            Digit(self._byte(high, zero, f"{tensor}/high_byte"), zero, BYTE_BITS),
        ]

    def _byte(self, x: str, zero: int, out: str) -> str:
        if zero:
            x = self.b.emit("Add", [x, self.b.constant(zero, np.int64)], f"{out}/raised")
        return self.b.cast(x, np.uint8, out)

    def _conv2d(self, node: N.Conv2d) -> str:
        b, name = self.b, node.name
        shapes = self.graph.inputs_of(node)[0].shape, self.graph.output_of(node).shape
        terms = []
        for x in self.digits(node.inputs[0]):
            part, window = b.windowed(x.tensor, node.window, shapes, f"{name}/x{x.shift}")
            for i, w in enumerate(weight_digits(b, node)):
                place = f"{name}/x{x.shift}_w{i}"
                zeros = [b.constant(zero, np.uint8) for zero in (x.zero, w.zero)]
                total = b.emit("ConvInteger", [part, w.tensor, *zeros], place, group=node.groups, **window)
                total = b.cast(total, np.int64, f"{place}/int64")
                if x.shift + w.shift:
                    factor = b.constant(1 << (x.shift + w.shift), np.int64)
                    total = b.emit("Mul", [total, factor], f"{place}/aligned")
                terms.append(total)
        return self._total(name, [*terms, b.constant(node.bias.reshape(-1, 1, 1), np.int64)])

    def _total(self, name: str, terms: list[str]) -> str:
        total = terms[0]
        for i, term in enumerate(terms[1:]):
            total = self.b.emit("Add", [total, term], f"{name}/sum{i}")
        return total

    def _add(self, node: N.Add) -> str:
        terms = []
        for i, (tensor, left) in enumerate(zip(node.inputs, node.alignment(self.graph.inputs_of(node)), strict=True)):
            factor = self.b.constant(1 << left, np.int64)
            wide = self.wide(tensor)
            terms.append(self.b.emit("Mul", [wide, factor], f"{node.name}/aligned{i}") if left else wide)
        return self._total(node.name, terms)

    def _mul(self, node: N.Mul) -> str:
        return self.b.emit("Mul", [self.wide(tensor) for tensor in node.inputs], f"{node.name}/product")

    def _avgpool(self, node: N.AvgPool) -> str:
        axes = self.b.constant((2, 3), np.int64)
        return self.b.emit("ReduceSum", [self.wide(node.inputs[0]), axes], f"{node.name}/sum", keepdims=1)

    def _maxpool(self, node: N.MaxPool) -> str:
        """Largest of the window's rows, then of its columns, in int32: runtimes have no MaxPool on 16 bits."""
        b, window = self.b, node.window
        source, out = self.graph.inputs_of(node)[0], self.graph.output_of(node)
        trailing = [window.trailing_pad(axis, source.shape[1 + axis], out.shape[1 + axis]) for axis in (0, 1)]
        pads = b.constant((0, 0, *window.pad, 0, 0, *(max(pad, 0) for pad in trailing)), np.int64)
        lowest = b.constant(out.fmt.lo, np.int32)
        x = b.cast(node.inputs[0], np.int32, f"{node.name}/int32")
        x = b.emit("Pad", [x, pads, lowest], f"{node.name}/padded")
        for axis, side in enumerate(("rows", "columns")):
            reach = (out.shape[1 + axis] - 1) * window.stride[axis] + 1
            taps = [
                b.cut(x, (2 + axis,), [(tap, tap + reach, window.stride[axis])], f"{node.name}/{side}{tap}")
                for tap in range(window.size[axis])
            ]
            x = b.emit("Max", taps, f"{node.name}/{side}")
        return x


def weight_digits(b: OnnxBuilder, node: N.Conv2d) -> Iterator[Digit]:
    """Yield constants of unsigned bytes whose shifted sum is the weight, with at most `MAX_TAPS` products each."""
    for part in _parts(node.weight):
        if part.min() >= -OFFSET and part.max() < OFFSET:
            yield Digit(b.constant(part + OFFSET, np.uint8), OFFSET, 0)
            continue
        yield Digit(b.constant(part % BYTE, np.uint8), 0, 0)
        yield Digit(b.constant(part // BYTE + OFFSET, np.uint8), OFFSET, BYTE_BITS)


def _parts(weight: IntArray) -> Iterator[IntArray]:
    """Split a weight [K, C, R, S] into summands with at most `MAX_TAPS` taps that are not zero per output channel."""
    rows = weight.reshape(weight.shape[0], -1)
    for start in range(0, rows.shape[1], MAX_TAPS):
        part = np.zeros_like(rows)
        part[:, start : start + MAX_TAPS] = rows[:, start : start + MAX_TAPS]
        yield part.reshape(weight.shape)

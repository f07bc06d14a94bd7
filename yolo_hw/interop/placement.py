# SPDX-License-Identifier: Apache-2.0
"""From quantisers that are nodes of a folded graph to a format for every tensor.

In a float framework a quantiser is an operator anywhere between two layers. In hardware it is the end of a computing
node. Rounding changes places with every node that only moves values (the largest of rounded values is the rounded
largest value), so a quantiser behind such nodes goes up to those that compute. Where a tensor that is rounded already
is rounded again, an `add` with one input does it. All of it is exact, and what is not is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import MAX_BITS, MIN_BITS, FixedPoint, Overflow, signed_bits
from yolo_hw.interop.averages import check_average
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.bounds import accumulator_bound, conv_sums
from yolo_hw.intgraph.graph import INPUT
from yolo_hw.intgraph.requant import NumericContract
from yolo_hw.quant import folded as G
from yolo_hw.quant.boundary import FoldedBoundary
from yolo_hw.quant.folded import FoldedGraph, FoldedNode
from yolo_hw.quant.plan import ConvCodes
from yolo_hw.quant.tables import ARITHMETIC

Encode = Callable[[G.FoldedConv, FixedPoint], ConvCodes]
"""Returns the codes of a convolution that reads a given format."""


@dataclass(eq=False)
class Placed:
    """A graph without quantisers.

    Attributes:
        graph: The graph; activations that hardware looks up are fused.
        formats: Format of every tensor, the image included.
        arguments: Format of the argument of every activation table.
        convs: Codes of every convolution.
        notes: What was added to stay exact.
    """

    graph: FoldedGraph
    formats: dict[str, FixedPoint] = field(default_factory=dict)
    arguments: dict[str, FixedPoint] = field(default_factory=dict)
    convs: dict[str, ConvCodes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def place_quantisers(
    graph: FoldedGraph, quantisers: dict[str, FixedPoint], contract: NumericContract, encode: Encode
) -> Placed:
    """Give every tensor a format so that the integer graph computes what the quantisers say.

    Args:
        graph: The folded graph with `FoldedBoundary` nodes.
        quantisers: Format by label.
        contract: Rounding and overflow of all of them.
        encode: Returns the codes of a convolution's weights.

    Returns:
        The graph without boundaries, and its formats.

    Raises:
        QuantError: A computing node's result is rounded nowhere and does not fit 16 bits, or twice, or before an
            activation that needs a table; names the node.
    """
    placer = _Placer(graph, quantisers, contract, encode)
    for node in graph.nodes:
        placer.place(node)
    outputs = tuple((placer.codes(tensor, "the output"), head) for tensor, head in graph.outputs)
    placer.found.graph = replace(
        graph, nodes=_ordered(placer.nodes, [tensor for tensor, _ in outputs]), outputs=outputs
    )
    _fuse_tables(placer.found)
    return placer.found


class _Placer:
    """Walks the graph once.

    Attributes:
        nodes: The new nodes by name, in no order.
        renamed: Name of the new tensor that stands for one of the old graph.
        raw: Tensors of the old graph that are no codes: the image, and what computing nodes return until a quantiser
            rounds it. One that has a format already is rounded for those readers that are quantisers.
    """

    def __init__(
        self, graph: FoldedGraph, quantisers: dict[str, FixedPoint], contract: NumericContract, encode: Encode
    ) -> None:
        self.graph, self.quantisers, self.contract, self.encode = graph, quantisers, contract, encode
        self.nodes: dict[str, FoldedNode] = {}
        self.renamed: dict[str, str] = {INPUT: INPUT}
        self.raw: set[str] = {INPUT}
        self.shapes: dict[str, Shape] = {INPUT: graph.input_shape}
        self.found = Placed(graph)

    def place(self, node: FoldedNode) -> None:
        """Take in the next node of the old graph."""
        if isinstance(node, FoldedBoundary):
            (source,) = node.inputs
            self.renamed[node.name] = self._rounded(source, self.quantisers[node.label])
        elif not node.moves:
            self._compute(node)
        elif self.raw.intersection(node.inputs):
            self._emit(node)
            self.raw.add(node.name)
        else:
            self._move(node)

    def codes(self, tensor: str, reader: str) -> str:
        """Return the new tensor that holds exactly the values of an old one, which `reader` reads."""
        if tensor in self.raw:
            self._make_exact(tensor, reader)
        return self.renamed[tensor]

    def _compute(self, node: FoldedNode) -> None:
        inputs = tuple(self.codes(name, node.name) for name in node.inputs)
        self._emit(replace(node, inputs=inputs))
        self.raw.add(node.name)
        if isinstance(node, G.FoldedConv):
            self.found.convs[node.name] = self.encode(node, self.found.formats[inputs[0]])
        if node.activation not in ARITHMETIC:
            if not isinstance(node, G.FoldedAdd) or len(inputs) > 1:
                raise QuantError(
                    f"{node.name}: '{node.activation}' is a table of codes in hardware, but reads accumulators here; "
                    "put a quantiser in front of it, such as QuantIdentity(Int8ActPerTensorFixedPoint)"
                )
            self.found.arguments[node.name] = self.found.formats[inputs[0]]

    def _move(self, node: FoldedNode) -> None:
        """A moving node between codes: they get one format that holds all of them."""
        inputs = [self.renamed[name] for name in node.inputs]
        formats = [self.found.formats[name] for name in inputs]
        common = common_format(formats)
        if common is None:
            found = ", ".join(map(str, formats))
            raise QuantError(
                f"{node.name}: its inputs must have one format, or fit one of 16 bits, got {found}; quantise them with "
                "one quantiser, as QuantCat does"
            )
        if any(fmt != common for fmt in formats):
            self.found.notes.append(f"{node.name}: inputs of different formats are brought to {common}")
        self._emit(replace(node, inputs=tuple(self._requantised(name, common) for name in inputs)), common)

    def _rounded(self, tensor: str, fmt: FixedPoint) -> str:
        """Return the new tensor that holds an old one rounded to `fmt`."""
        new = self.renamed[tensor]
        if tensor not in self.raw:
            return self._requantised(new, fmt)
        present = self.found.formats.get(new)
        if present is not None and present != fmt:
            raise QuantError(
                f"{tensor}: its accumulators are rounded to {present} and to {fmt}; a computing node has one output "
                "format: quantise once, then requantise the result"
            )
        node = self.nodes.get(new)
        if node is not None and node.moves and present is None:
            old = node.inputs
            self.nodes[new] = replace(node, inputs=tuple(self._rounded(name, fmt) for name in old))
        if isinstance(node, G.FoldedAvgPool):
            check_average(node.name, node.count, (self.found.formats[node.inputs[0]], fmt), self.contract)
        self.found.formats[new] = fmt
        return new

    def _requantised(self, new: str, fmt: FixedPoint) -> str:
        """Return a tensor with the codes of `new` in another format."""
        if self.found.formats[new] == fmt:
            return new
        name = f"{new}.{fmt}"
        if name not in self.nodes:
            self._emit(G.FoldedAdd(name=name, inputs=(new,), shape=self.shapes[new]), fmt)
        return name

    def _make_exact(self, tensor: str, reader: str) -> None:
        """Give a tensor that no quantiser rounds a format that holds all its values."""
        if tensor == INPUT:
            raise QuantError(f"{reader}: reads the image as it is; put a QuantIdentity in front of the model")
        new = self.renamed[tensor]
        node = self.nodes[new]
        if new in self.found.formats:
            raise QuantError(
                f"{tensor}: is rounded for one of its readers, but {reader} reads the accumulators; put the quantiser "
                "in front of both"
            )
        self.raw.discard(tensor)
        if node.moves:
            for name in node.inputs:
                self.codes(name, reader)
            self._move(node)
            return
        fmt = self._accumulator_format(node, reader)
        self.found.formats[new] = fmt
        self.found.notes.append(f"{tensor}: has no quantiser; keeps its accumulators as {fmt}")

    def _accumulator_format(self, node: FoldedNode, reader: str) -> FixedPoint:
        inputs = [N.TensorInfo(self.shapes[name], self.found.formats[name]) for name in node.inputs]
        fracs = [info.fmt.frac for info in inputs]
        if node.activation not in ("linear", "relu") or isinstance(node, G.FoldedAvgPool):
            raise QuantError(f"{node.name}: {reader} reads its result, which no quantiser rounds; put one behind it")
        if isinstance(node, G.FoldedConv):
            frac, lo, hi = _conv_range(self.found.convs[node.name], inputs[0].fmt)
        else:
            kind, frac = (N.Add, max(fracs)) if isinstance(node, G.FoldedAdd) else (N.Mul, sum(fracs))
            bound = accumulator_bound(kind(name=node.name, inputs=node.inputs), inputs)
            assert bound is not None
            lo, hi = bound.lo, bound.hi
        lo = 0 if node.activation == "relu" else lo
        bits = signed_bits(min(lo, -hi) if self.contract.overflow is Overflow.SATURATE_SYMMETRIC else lo, hi)
        if lo == 0 and bits <= MAX_BITS:
            return FixedPoint(max(bits - 1, MIN_BITS), frac, signed=False)
        if bits > MAX_BITS:
            raise QuantError(
                f"{node.name}: {reader} reads its accumulators, which need {bits} bits of at most {MAX_BITS}; put a "
                "quantiser behind it (output_quant, or a QuantIdentity)"
            )
        return FixedPoint(max(bits, MIN_BITS), frac)

    def _emit(self, node: FoldedNode, fmt: FixedPoint | None = None) -> None:
        self.nodes[node.name] = node
        self.shapes[node.name] = node.shape
        self.renamed[node.name] = node.name
        if fmt is not None:
            self.found.formats[node.name] = fmt


def _conv_range(codes: ConvCodes, x: FixedPoint) -> tuple[int, int, int]:
    """Return the fraction bits that hold the accumulators of all channels, and their range in them."""
    bottom, top = conv_sums(codes.weight, codes.bias, min(x.lo, 0), x.hi)
    fracs = codes.w_frac + x.frac
    frac = int(fracs.max())
    lows = [int(value) << (frac - int(f)) for value, f in zip(bottom, fracs, strict=True)]
    highs = [int(value) << (frac - int(f)) for value, f in zip(top, fracs, strict=True)]
    return frac, min(lows), max(highs)


def common_format(formats: list[FixedPoint]) -> FixedPoint | None:
    """Return the smallest format with all the values of `formats`; None if it is too long."""
    if len(set(formats)) == 1:
        return formats[0]
    frac = max(fmt.frac for fmt in formats)
    signed = any(fmt.signed for fmt in formats)
    bits = max(fmt.bits + frac - fmt.frac + (signed and not fmt.signed) for fmt in formats)
    return FixedPoint(bits, frac, signed) if bits <= MAX_BITS - (not signed) else None


def _ordered(nodes: dict[str, FoldedNode], wanted: list[str]) -> tuple[FoldedNode, ...]:
    """Return the nodes that `wanted` depends on, every one behind those it reads."""
    done: dict[str, FoldedNode] = {}
    pending = list(reversed(wanted))
    while pending:
        node = nodes.get(pending[-1])
        missing = [] if node is None else [name for name in node.inputs if name != INPUT and name not in done]
        if missing:
            pending.extend(reversed(missing))
            continue
        if node is not None:
            done.setdefault(node.name, node)
        pending.pop()
    return tuple(done.values())


def _fuse_tables(found: Placed) -> None:
    """Let the computing node in front of an activation's table look it up, where nothing else reads its result."""
    graph = found.graph
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    readers.update(tensor for tensor, _ in graph.outputs)
    nodes = {node.name: node for node in graph.nodes}
    for node in graph.nodes:
        source = nodes.get(node.inputs[0])
        if node.name not in found.arguments or source is None or readers[source.name] > 1:
            continue
        plain = source.activation == "linear" and source.name not in found.arguments
        if source.moves or isinstance(source, G.FoldedAvgPool) or not plain:
            continue
        # The fused node takes the activation's name, which those that read it know.
        del nodes[source.name]
        nodes[node.name] = replace(source, name=node.name, activation=node.activation)
        if source.name in found.convs:
            found.convs[node.name] = found.convs.pop(source.name)
    kept = tuple(nodes[node.name] for node in graph.nodes if node.name in nodes)
    found.graph = replace(graph, nodes=kept)
    found.formats = {name: found.formats[name] for name in (INPUT, *nodes)}

# SPDX-License-Identifier: Apache-2.0
"""Where a network ends and its decoding begins.

The *body* is every node that a trained layer depends on, and the layers themselves. What remains is the tail. An output
stays if its tail has an integer form (an activation, a sum of maps, a pool); otherwise the network is cut where the
first operator without one reads, and further up before concatenations and sigmoids, which the host computes in float
with more accuracy: raw maps of one format each are left.

The expectation over the bins of a box distribution (Li et al., "Generalized Focal Loss", NeurIPS 2020) is written as a
convolution or product with the weights 0, 1, 2, ...; it is no trained layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np

from yolo_hw.errors import OnnxError, nearest
from yolo_hw.interop.from_onnx.document import OnnxDocument, OnnxNode
from yolo_hw.interop.from_onnx.patterns import Simplified, needed

LAYERS = ("Conv", "ConvTranspose", "Gemm", "Linear", "MatMul")
ACTIVATIONS = ("Relu Relu6 LeakyRelu PRelu Elu Celu Gelu Mish Silu HardSwish Hardsigmoid Sigmoid Tanh Softplus").split()
JOINS = "Add Sub Mul Div Sum BatchNormalization Resize Upsample Clip".split()
POOLS = "MaxPool AveragePool GlobalAveragePool GlobalMaxPool ReduceMean".split()
INTEGER_FORM = frozenset([*ACTIVATIONS, *JOINS, *POOLS])
"""Operators that an integer network may end with; Concat, Flatten, Reshape and Squeeze in some forms."""
GATES = ("Sigmoid", "Hardsigmoid")
SCALING = ("Add", "Sub", "Mul", "Div", "Pow")
SPLITS = ("Split", "SplitToSequence", "SequenceAt")
FLATTENING = ("Flatten", "Reshape", "Squeeze")


@dataclass(frozen=True, eq=False)
class Cut:
    """Where the network ends.

    Attributes:
        outputs: Tensors, in the order of their nodes.
        dropped: Nodes behind them that the file has and the module has not.
    """

    outputs: tuple[str, ...]
    dropped: tuple[OnnxNode, ...] = ()


@dataclass
class _Parts:
    """The nodes that depend on the image, sorted into body and tail."""

    document: OnnxDocument
    simplified: Simplified
    body: set[str] = field(default_factory=set)
    """Names of tensors made by body nodes."""

    def __post_init__(self) -> None:
        read_by_body: set[str] = set()
        for node in reversed(self.simplified.nodes):
            if not self.simplified.live & set(node.outputs):
                continue
            if self._is_layer(node) or read_by_body & set(node.outputs):
                read_by_body |= set(node.inputs)
                self.body |= set(node.outputs)

    def _is_layer(self, node: OnnxNode) -> bool:
        constants = [self.simplified.constants[name] for name in node.inputs if name in self.simplified.constants]
        if node.op not in LAYERS or not constants:
            return False
        weight = constants[0]
        expectation = weight.size == max(weight.shape) > 1 and np.array_equal(weight.ravel(), np.arange(weight.size))
        return not expectation

    def producer(self, tensor: str) -> OnnxNode | None:
        """Return the tail node that makes a tensor."""
        return None if tensor in self.body else self.simplified.producer.get(tensor)

    def inputs(self, node: OnnxNode) -> list[str]:
        """Return what a node reads of what depends on the image."""
        return [name for name in node.inputs if name in self.simplified.live]

    def tail_of(self, output: str) -> list[OnnxNode]:
        """Return the tail nodes that `output` depends on, in order."""
        wanted, kept = {output}, []
        for node in reversed(self.simplified.nodes):
            if wanted & set(node.outputs) and not self.body & set(node.outputs) and self.inputs(node):
                wanted |= set(self.inputs(node))
                kept.append(node)
        return kept[::-1]

    def has_integer_form(self, node: OnnxNode) -> bool:
        """Whether a tail node is something an integer network may end with."""
        if node.op == "Concat":
            return node.attributes.get("axis") == 1 and len(self.shape(node.outputs[0])) == 4
        if node.op in FLATTENING:
            before, after = self.shape(node.inputs[0]), self.shape(node.outputs[0])
            return before[2:] == (1, 1) and len(after) == 2 and after[1:] == before[1:2]
        return node.op in INTEGER_FORM

    def shape(self, tensor: str) -> tuple[int | None, ...]:
        """Return the inferred shape; () where it is not known."""
        return self.document.shapes.get(tensor, ())

    def above_gates(self, tensor: str) -> list[str]:
        """Return the maps that concatenations, slices, gates and scalings of the tail have made `tensor` of."""
        found, seen, waiting = list[str](), {tensor}, [tensor]
        while waiting:
            name = waiting.pop()
            node = self.producer(name)
            if node is None or not self._is_gate(node):
                found.append(name)
                continue
            waiting += [one for one in self.inputs(node) if one not in seen]
            seen |= set(node.inputs)
        return found

    def _is_gate(self, node: OnnxNode) -> bool:
        constants = [self.simplified.constants.get(name) for name in node.inputs]
        scaled = node.op in SCALING and any(value is not None and value.size == 1 for value in constants)
        return scaled or node.op in (*GATES, "Concat", "Slice", *SPLITS)


def cut_by_default(document: OnnxDocument, simplified: Simplified) -> Cut:
    """Return the last maps that have an integer form."""
    parts = _Parts(document, simplified)
    chosen: list[str] = []
    for name in document.outputs:
        output = simplified.resolve(name)
        tail, lost, ends = parts.tail_of(output), set[str](), list[str]()
        for node in tail:
            if not parts.has_integer_form(node) or lost & set(node.inputs):
                lost |= set(node.outputs)
                ends += [name for name in parts.inputs(node) if name not in lost]
        found = [one for end in ends for one in parts.above_gates(end)] if output in lost else [output]
        chosen += found if found and document.input not in found else [output]
    order = {name: i for i, node in enumerate(simplified.nodes) for name in node.outputs}
    outputs = tuple(sorted(set(chosen), key=lambda name: order.get(name, -1)))
    whole = tuple(dict.fromkeys(simplified.resolve(name) for name in document.outputs))
    return Cut(whole) if set(outputs) == set(whole) else Cut(outputs, _dropped(simplified, outputs, whole))


def cut_at(document: OnnxDocument, simplified: Simplified, names: Sequence[str]) -> Cut:
    """Return the tensors that names or patterns of tensors or nodes stand for.

    Raises:
        OnnxError: A name stands for nothing.
    """
    tensors = {name: simplified.resolve(name) for name in [*simplified.producer, *simplified.alias]}
    known: dict[str, list[str]] = {}
    for node in simplified.nodes:
        known.setdefault(node.name, []).append(node.outputs[0])
    known |= {name: [tensor] for name, tensor in tensors.items()}
    outputs: list[str] = []
    for wanted in names:
        if len(known.get(wanted, ())) > 1:
            raise OnnxError(
                f"{document.path}: {len(known[wanted])} nodes are called '{wanted}'; name one of their tensors, "
                f"{', '.join(known[wanted])}"
            )
        found = known.get(wanted) or [
            tensor for name, group in known.items() if fnmatchcase(name, wanted) for tensor in group
        ]
        if not found:
            raise OnnxError(
                f"{document.path}: there is no tensor or node '{wanted}'{nearest(wanted, known)}; the outputs are "
                f"{', '.join(document.outputs)}"
            )
        order = {name: i for i, node in enumerate(simplified.nodes) for name in node.outputs}
        outputs += sorted(set(found), key=lambda name: order.get(name, -1))
    if not outputs:
        raise OnnxError(f"{document.path}: outputs must name at least one tensor or node")
    chosen = tuple(dict.fromkeys(outputs))
    return Cut(chosen, _dropped(simplified, chosen, document.outputs))


def _dropped(simplified: Simplified, outputs: Sequence[str], whole: Sequence[str]) -> tuple[OnnxNode, ...]:
    """Return what the whole network needs beyond the outputs, without computations of constants."""
    kept = {node.outputs for node in needed(simplified, outputs)}
    return tuple(
        node for node in needed(simplified, [simplified.resolve(name) for name in whole]) if node.outputs not in kept
    )

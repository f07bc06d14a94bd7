# SPDX-License-Identifier: Apache-2.0
"""What exporters take apart, joined again: activations made of several operators, and biases added afterwards.

A pattern is a tree of operators over one map ``X`` and numbers. The joined node gets an operator name of this library's
own where ONNX has none: ``Silu``, ``Relu6``, ``Hardsigmoid``, ``Linear``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import helper

from yolo_hw.interop.from_onnx.constants import constant_value
from yolo_hw.interop.from_onnx.document import Array, OnnxDocument, OnnxNode

X = "X"
_GATE = ("Relu6", ("Add", X, 3.0))
_ERF = (("Erf", ("Div", X, math.sqrt(2))), ("Erf", ("Mul", X, 1 / math.sqrt(2))))

PATTERNS: tuple[tuple[str, Any], ...] = (
    ("Silu", ("Mul", X, ("Sigmoid", X))),
    ("Mish", ("Mul", X, ("Tanh", ("Softplus", X)))),
    ("Mish", ("Mul", X, ("Tanh", ("Log", ("Add", ("Exp", X), 1.0))))),
    ("HardSwish", ("Mul", X, ("Hardsigmoid", X))),
    ("HardSwish", ("Div", ("Mul", X, _GATE), 6.0)),
    ("HardSwish", ("Mul", ("Mul", X, _GATE), 1 / 6)),
    ("Hardsigmoid", ("Div", _GATE, 6.0)),
    ("Hardsigmoid", ("Mul", _GATE, 1 / 6)),
    *(("Gelu", ("Mul", ("Mul", X, ("Add", erf, 1.0)), 0.5)) for erf in _ERF),
    *(("Gelu", ("Mul", X, ("Mul", ("Add", erf, 1.0), 0.5))) for erf in _ERF),
    *(("Gelu", ("Mul", ("Mul", X, 0.5), ("Add", erf, 1.0))) for erf in _ERF),
)
"""(operator, tree). Sources: Ramachandran et al., "Searching for Activation Functions" (SiLU); Misra, "Mish"; Howard et
al., "Searching for MobileNetV3", section 5.2; Hendrycks & Gimpel, "Gaussian Error Linear Units"."""

COMMUTATIVE = ("Add", "Mul")
FLOATS = (1, 10, 11, 16)
"""ONNX's numbers of float32, float16, float64 and bfloat16."""


@dataclass
class Simplified:
    """A document without aliases, with the patterns joined.

    Attributes:
        nodes: In execution order; some may be of no use any more.
        constants: Of the document, of its Constant nodes, and new ones.
        live: Tensors that depend on the image's pixels; what depends on its shape alone becomes constant.
        alias: Tensor -> the one it is a copy of.
        producer: Tensor -> the node that makes it.
    """

    nodes: list[OnnxNode] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)
    alias: dict[str, str] = field(default_factory=dict)
    producer: dict[str, OnnxNode] = field(default_factory=dict)

    def resolve(self, tensor: str) -> str:
        """Return the tensor that `tensor` is a copy of."""
        return self.alias.get(tensor, tensor)

    def number(self, tensor: str) -> float | None:
        """Return a constant of one element."""
        value = self.constants.get(tensor)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def needed(simplified: Simplified, outputs: Sequence[str]) -> list[OnnxNode]:
    """Return the nodes that the tensors `outputs` depend on, in order."""
    wanted, kept = set(outputs), []
    for node in reversed(simplified.nodes):
        if wanted & set(node.outputs):
            wanted |= set(node.inputs)
            kept.append(node)
    return kept[::-1]


def simplify(document: OnnxDocument) -> Simplified:
    """Return the nodes of a document with copies dropped and patterns joined."""
    graph = Simplified(constants=dict(document.constants), live={document.input})
    nodes = _without_copies(document, graph)
    uses = Counter(name for node in nodes for name in node.inputs)
    uses.update(graph.resolve(name) for name in document.outputs)
    for original in nodes:
        node = _add_bias(graph, _join(graph, _specialise(graph, original)), uses)
        graph.nodes.append(node)
        graph.producer |= dict.fromkeys(node.outputs, node)
    return graph


def _without_copies(document: OnnxDocument, graph: Simplified) -> list[OnnxNode]:
    """Return the nodes that do something; note what is constant, live, and a copy."""
    nodes = []
    for original in document.nodes:
        node = replace(original, inputs=tuple(graph.resolve(name) for name in original.inputs))
        if node.op == "Constant" and (value := constant_value(node)) is not None:
            graph.constants[node.outputs[0]] = value
            continue
        if node.op == "CastLike" and (like := _dtype(graph, node.inputs[1])) is not None:
            if node.inputs[0] in graph.constants:
                graph.constants[node.outputs[0]] = graph.constants[node.inputs[0]].astype(like)
                continue
            to = helper.np_dtype_to_tensor_dtype(like)
            node = replace(node, op="Cast", inputs=node.inputs[:1], attributes={"to": to})
        if _copies(node, graph.live):
            graph.alias[node.outputs[0]] = node.inputs[0]
            continue
        if node.op not in ("Shape", "Size") and graph.live & set(node.inputs):
            graph.live |= set(node.outputs)
        nodes.append(node)
    return nodes


def _dtype(graph: Simplified, tensor: str) -> np.dtype[Any] | None:
    """Return the type of a map or a constant, None where it is not known yet."""
    if tensor in graph.live:
        return np.dtype(np.float32)
    return graph.constants[tensor].dtype if tensor in graph.constants else None


def _copies(node: OnnxNode, live: set[str]) -> bool:
    """Whether a node's output is its input: what it does matters in training only, or to the width of a map's floats.

    A cast of what is no map is computed: it may make fractions of whole numbers possible.
    """
    if node.op == "Dropout":
        return len([name for name in node.outputs if name]) == 1
    return node.op == "Identity" or (
        node.op == "Cast" and node.inputs[0] in live and node.attributes.get("to") in FLOATS
    )


def _specialise(graph: Simplified, node: OnnxNode) -> OnnxNode:
    """Name the forms of Clip and HardSigmoid that are activations of their own."""
    if node.op == "Clip":
        bounds = clip_bounds(node, graph.constants)
        if bounds in ((0.0, 6.0), (0.0, None)):
            return replace(node, op="Relu6" if bounds[1] else "Relu", inputs=node.inputs[:1], attributes={})
    if node.op == "HardSigmoid":
        numbers = (node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5))
        if np.allclose(numbers, (1 / 6, 0.5), 1e-6):
            return replace(node, op="Hardsigmoid", attributes={})
    return node


def clip_bounds(node: OnnxNode, constants: Mapping[str, Array]) -> tuple[float | None, float | None] | None:
    """Return (lowest, highest) of a Clip, None for no bound; None altogether where a bound is no constant."""
    bounds: list[float | None] = []
    for i, key in enumerate(("min", "max")):
        name = node.inputs[i + 1] if len(node.inputs) > i + 1 else ""
        if name and (name not in constants or constants[name].size != 1):
            return None
        value = float(constants[name].reshape(-1)[0]) if name else node.attributes.get(key)
        unbounded = value is None or abs(value) >= float(np.finfo(np.float32).max)
        bounds.append(None if unbounded else value)
    return bounds[0], bounds[1]


def _join(graph: Simplified, node: OnnxNode) -> OnnxNode:
    for op, tree in PATTERNS:
        if tree[0] == node.op:
            bound: dict[str, str] = {}
            if _matches(graph, tree, node, bound):
                return replace(node, op=op, inputs=(bound[X],), attributes={})
    return node


def _matches(graph: Simplified, tree: tuple[Any, ...], node: OnnxNode, bound: dict[str, str]) -> bool:
    operands = tree[1:]
    if node.op != tree[0] or len(node.inputs) != len(operands):
        return False
    orders = [node.inputs, node.inputs[::-1]] if node.op in COMMUTATIVE else [node.inputs]
    for inputs in orders:
        attempt = dict(bound)
        if all(_operand(graph, part, name, attempt) for part, name in zip(operands, inputs, strict=True)):
            bound.update(attempt)
            return True
    return False


def _operand(graph: Simplified, part: Any, name: str, bound: dict[str, str]) -> bool:  # noqa: ANN401
    if isinstance(part, float):
        number = graph.number(name)
        return number is not None and math.isclose(number, part, rel_tol=1e-6)
    if part == X:
        return name not in graph.constants and bound.setdefault(X, name) == name
    producer = graph.producer.get(name)
    return producer is not None and _matches(graph, part, producer, bound)


def _add_bias(graph: Simplified, node: OnnxNode, uses: Counter[str]) -> OnnxNode:
    """Give a layer the constants that are added to its output alone."""
    if node.op != "Add" or len(node.inputs) != 2:
        return node
    for map_name, bias_name in (node.inputs, node.inputs[::-1]):
        layer, bias = graph.producer.get(map_name), graph.constants.get(bias_name)
        if layer is None or bias is None or uses[map_name] != 1 or len(layer.inputs) != 2:
            continue
        weight = graph.constants.get(layer.inputs[1])
        if layer.op == "MatMul" and weight is not None and weight.ndim == 2 and bias.shape == weight.shape[1:]:
            return _with_bias(graph, replace(layer, op="Linear"), bias_name, node)
        if layer.op == "Conv" and weight is not None and bias.size == len(weight) and _per_channel(bias, weight):
            flat = f"{bias_name}/flat"
            graph.constants[flat] = bias.reshape(-1)
            return _with_bias(graph, layer, flat, node)
    return node


def _with_bias(graph: Simplified, layer: OnnxNode, bias: str, add: OnnxNode) -> OnnxNode:
    """Return the layer with its bias, under its name; the one without keeps that of its tensor."""
    (bare,) = layer.outputs
    index = graph.nodes.index(graph.producer[bare])
    graph.nodes[index] = graph.producer[bare] = replace(graph.producer[bare], name=bare)
    return replace(layer, inputs=(*layer.inputs, bias), outputs=add.outputs)


def _per_channel(bias: Array, weight: Array) -> bool:
    """Whether the channels of the bias lie where those of the layer's map do."""
    rank = weight.ndim
    return bias.ndim in (rank - 1, rank) and bias.shape[bias.ndim - rank + 1] == len(weight)

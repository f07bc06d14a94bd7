# SPDX-License-Identifier: Apache-2.0
"""From any torch module to the folded graph. The top function is `trace_module`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import QuantError
from yolo_hw.quant.folded import FoldedGraph
from yolo_hw.quant.folding import conv_names, plain_name, reachable
from yolo_hw.quant.source import TracedModel
from yolo_hw.quant.traced.builder import Builder
from yolo_hw.quant.traced.capture import Captured, capture
from yolo_hw.quant.traced.operators import translate
from yolo_hw.quant.traced.pack import Leaf, Pack
from yolo_hw.quant.traced.tracer import Tracer, describe
from yolo_hw.quant.traced.values import Source, Value


def trace_module(module: nn.Module, example: Tensor | Shape) -> TracedModel:
    """Reduce a module to operators with an integer meaning, and remember which tensors the weights come from.

    The module's code is followed by `torch.export`, in evaluation mode and for images of one size. Batch norms become
    part of the convolutions before them; sums, products and activations are nodes; what only moves elements (reshapes,
    slices, shuffles, padding, ...) becomes the nodes that do the same, however the code writes it.

    Args:
        module: Takes images [N, C, H, W] in [0, 1] and returns a tensor, or nested lists, tuples and dicts of tensors.
            It is not changed.
        example: Images [N, C, H, W], of which only the size counts, or the size.

    Returns:
        The folded graph, whose nodes are called like the modules; the sources of its convolutions, which are the
        module's own tensors; and how the module packs its outputs.

    Raises:
        QuantError: An operator has no integer form; names it, its module and what is supported.
    """
    shape = Shape(*example.shape[1:]) if isinstance(example, Tensor) else Shape(*example)
    like = next((x for x in module.parameters() if x.is_floating_point()), torch.empty(0))
    captured = capture(module, shape, like)
    builder = Builder(shape, like)
    leaves = _run(captured, Tracer(builder, module), module)
    name = plain_name(type(module).__name__)
    outputs = list(dict.fromkeys(s for leaf in leaves if isinstance(leaf, Value) for s in leaf.sources))
    if not outputs or builder.image in outputs:
        raise QuantError(f"{name}: every output must be computed from the image")
    nodes = reachable(list(builder.nodes.values()), {source.name for source in outputs})
    graph = FoldedGraph(name, shape, nodes, tuple((source.name, None) for source in outputs))
    sources = {conv: builder.sources[conv] for conv in conv_names(graph)}
    return TracedModel(graph, sources, _pack(leaves, outputs, captured))


def _run(captured: Captured, tracer: Tracer, module: nn.Module) -> list[Any]:
    """Translate all operators; return the outputs, maps as folded tensors."""
    found: dict[fx.Node, Any] = {}
    for node in captured.nodes:
        if node.op == "placeholder":
            found[node] = captured.tensors.get(node.name, Value.of(tracer.builder.image))
        elif node.op == "call_function":
            if not node.users:  # checks of sizes
                continue
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), found.__getitem__)
            result = translate(tracer, node, describe(node, module), args, kwargs)
            found[node] = _shared(result) if len(node.users) > 1 else result
        elif node.op != "output":
            raise QuantError(f"{type(module).__name__}: {node.op} '{node.target}' cannot be followed")
    output = fx.node.map_arg(captured.nodes[-1].args[0], found.__getitem__)
    leaves = tree_leaves(output, is_leaf=lambda x: isinstance(x, Value))
    return [_as_output(tracer, leaf) if isinstance(leaf, Value) else leaf for leaf in leaves]


def _shared(result: Any) -> Any:  # noqa: ANN401 - a value or several
    """Mark what several operators read: no node may take in what follows."""
    if isinstance(result, Value):
        return replace(result, sole=False)
    return type(result)(map(_shared, result)) if isinstance(result, (list, tuple)) else result


def _as_output(tracer: Tracer, value: Value) -> Value:
    """Return a map as one tensor; what nodes cannot put in order, or is no map any more, the host puts in order."""
    if len(value.shape) != len(Shape._fields) or value.whole:
        return value
    try:
        return Value.of(tracer.gathered(value))
    except QuantError:
        return value


def _pack(leaves: list[Any], outputs: list[Source], captured: Captured) -> Pack:
    position = {source.name: i for i, source in enumerate(outputs)}
    packed = tuple(Leaf.of(leaf, position) if isinstance(leaf, Value) else leaf for leaf in leaves)
    return Pack(packed, captured.outputs)

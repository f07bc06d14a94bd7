# SPDX-License-Identifier: Apache-2.0
"""Activations behind nodes that only move values, brought to the nodes that compute the values."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from yolo_hw.quant import folded as G
from yolo_hw.quant.folded import FoldedGraph, FoldedNode

_RISING = frozenset({"relu", "relu6", "leaky"})
"""Activations of the datapath that never fall, so that the largest value stays the largest."""


def raise_activations(graph: FoldedGraph) -> FoldedGraph:
    """Fuse activations into computing nodes across the moving nodes between them.

    Before: convolution, max pool, relu.  After: convolution with relu, max pool.  Keeps every value: an activation that
    never falls changes places with picking, repeating and comparing values. Where another node reads one of the
    tensors, all stays as it is.
    """
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    readers.update(tensor for tensor, _ in graph.outputs)
    nodes = {node.name: node for node in graph.nodes}
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        alone = isinstance(node, G.FoldedAdd) and len(node.inputs) == 1 and node.activation in _RISING
        below = nodes.get(node.inputs[0])
        if not alone or below is None or not below.moves:
            continue
        producers = _producers(below, nodes, readers)
        if producers is not None:
            nodes |= {producer.name: replace(producer, activation=node.activation) for producer in producers}
            del nodes[node.name]
            renamed[node.name] = below.name
    kept = [nodes[node.name] for node in graph.nodes if node.name in nodes]
    rewired = [replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs)) for node in kept]
    outputs = tuple((renamed.get(tensor, tensor), head) for tensor, head in graph.outputs)
    return replace(graph, nodes=tuple(rewired), outputs=outputs)


def _producers(node: FoldedNode, nodes: dict[str, FoldedNode], readers: Counter[str]) -> list[FoldedNode] | None:
    """Return the nodes whose values `node` hands on; None if one of them cannot take an activation."""
    if readers[node.name] > 1:
        return None
    if not node.moves:
        takes = isinstance(node, (G.FoldedConv, G.FoldedAdd, G.FoldedMul)) and node.activation == "linear"
        return [node] if takes else None
    found: list[FoldedNode] = []
    for name in node.inputs:
        above = _producers(nodes[name], nodes, readers) if name in nodes else None
        if above is None:
            return None
        found += above
    return found

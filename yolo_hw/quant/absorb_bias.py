# SPDX-License-Identifier: Apache-2.0
"""Bias absorption: what a channel always exceeds goes into the next layer's bias, and the tensor's range shrinks.

If a channel x of a map is never below c > 0, then ``W x + b = W (x - c) + (b + W c)``, and ``x - c`` is the channel
with c taken from its producer's bias: relu, leaky and linear are the identity above 0. A convolution that pads breaks
this at the map's border, where zeros take the place of ``x - c``; tensors read by one are left alone.

Reference:
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1.3.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from yolo_hw.quant.equalise import HOMOGENEOUS
from yolo_hw.quant.folded import Float64Array, FoldedConv, FoldedGraph, FoldedNode
from yolo_hw.quant.moments import response


def absorb_biases(graph: FoldedGraph, floors: dict[str, Float64Array]) -> tuple[FoldedGraph, dict[str, Float64Array]]:
    """Move positive floors of channels into the biases of the layers that read them.

    Before: channels may lie far from zero.  After: where possible their smallest value is 0.  Changes values: on inputs
    that keep every channel above its floor the outputs stay the same up to float64 rounding; where a relu's or leaky's
    argument falls below its floor they do not.

    Args:
        graph: The folded network.
        floors: [C] smallest value of every node's channels, measured or estimated; only positive ones are absorbed.

    Returns:
        The graph, and [C] what was taken from every tensor that changed.
    """
    nodes = {node.name: node for node in graph.nodes}
    absorbed: dict[str, Float64Array] = {}
    for node in graph.nodes:
        readers = [other for other in graph.nodes if node.name in other.inputs]
        if not isinstance(node, FoldedConv) or not _may_shift(graph, node, readers):
            continue
        floor = np.maximum(floors[node.name], 0.0)
        if not floor.any():
            continue
        absorbed[node.name] = floor
        producer = nodes[node.name]
        assert isinstance(producer, FoldedConv)
        nodes[node.name] = replace(producer, bias=producer.bias - floor)
        for reader in readers:
            conv = nodes[reader.name]
            assert isinstance(conv, FoldedConv)
            nodes[reader.name] = replace(conv, bias=conv.bias + response(conv, conv.weight, floor))
    return replace(graph, nodes=tuple(nodes[node.name] for node in graph.nodes)), absorbed


def _may_shift(graph: FoldedGraph, node: FoldedConv, readers: list[FoldedNode]) -> bool:
    outputs = {tensor for tensor, _ in graph.outputs}
    return (
        node.activation in HOMOGENEOUS
        and node.name not in outputs
        and all(isinstance(reader, FoldedConv) and not _pads(reader, node) for reader in readers)
    )


def _pads(reader: FoldedConv, source: FoldedConv) -> bool:
    """Whether any window of `reader` reaches beyond the map it reads."""
    window = reader.window
    return any(window.pad) or any(
        window.trailing_pad(axis, source.shape[1 + axis], reader.shape[1 + axis]) > 0 for axis in (0, 1)
    )

# SPDX-License-Identifier: Apache-2.0
"""Channel equalisation by powers of two: the float function stays the same, the channels' ranges come closer.

A channel with a range far below the tensor's loses all its precision to the common step. Where every operator
around a tensor commutes with a positive factor per channel (convolution, add, pools, upsample, leaky, relu),
the producer's output channel is multiplied by ``2**e`` and the consumers' weights for it by ``2**-e``. Behind a
depthwise consumer, whose weights have fraction bits per channel, this costs nothing.

Reference:
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1;
    here with factors from activation ranges, rounded to powers of two, over whole residual chains.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from yolo_hw.fixedpoint import IntArray
from yolo_hw.intgraph.graph import INPUT
from yolo_hw.quant import folded as G
from yolo_hw.quant.folded import Float64Array, FoldedConv, FoldedGraph, FoldedNode

HOMOGENEOUS = frozenset({"linear", "leaky", "relu"})
"""Activations f with f(a x) = a f(x) for a > 0."""

MAX_DENSE_EXPONENT = 4
"""Behind dense consumers small channels grow by at most 2**4, since their weights shrink in a shared step."""
MAX_DEPTHWISE_EXPONENT = 10
"""Behind depthwise consumers only the growth of dead channels is limited."""


def equalise_channels(graph: FoldedGraph, ranges: dict[str, Float64Array], strength: float) -> FoldedGraph:
    """Equalise the channels of every tensor where this is possible.

    Before: channel ranges of a tensor may differ widely.  After: they lie closer together, for tensors read by
    depthwise convolutions only within a factor of 2 (dead channels aside).  Changes values: up to float64 rounding.

    Args:
        graph: The folded network.
        ranges: [C] largest magnitude of every node's channels, over the calibration images.
        strength: Share of the (logarithmic) distance to the largest channel that is closed behind dense consumers, in
            [0, 1].
    """
    nodes = {node.name: node for node in graph.nodes}
    for members in _scale_groups(graph):
        consumers = [node.name for node in graph.nodes if any(name in members for name in node.inputs)]
        convs = [name for name in consumers if isinstance(nodes[name], FoldedConv)]
        depthwise = all(_is_depthwise(nodes[name]) for name in convs)
        largest = np.max([ranges[name] for name in members], axis=0)
        exponents = _exponents(largest, depthwise, strength)
        for name in members:
            node = nodes[name]
            if isinstance(node, FoldedConv):
                nodes[name] = replace(
                    node,
                    weight=np.ldexp(node.weight, exponents[:, None, None, None]),
                    bias=np.ldexp(node.bias, exponents),
                )
        for name in convs:
            node = nodes[name]
            assert isinstance(node, FoldedConv)
            axis = exponents[:, None, None, None] if _is_depthwise(node) else exponents[None, :, None, None]
            nodes[name] = replace(node, weight=np.ldexp(node.weight, -axis))
    return replace(graph, nodes=tuple(nodes[node.name] for node in graph.nodes))


def _exponents(largest: Float64Array, depthwise: bool, strength: float) -> IntArray:
    top = largest.max()
    if top == 0:
        return np.zeros(largest.shape, np.int64)
    distance = np.log2(top / np.maximum(largest, top * 2.0**-MAX_DEPTHWISE_EXPONENT))
    limit = MAX_DEPTHWISE_EXPONENT if depthwise else MAX_DENSE_EXPONENT
    return np.asarray(np.clip(np.floor(distance * (1.0 if depthwise else strength)), 0, limit), np.int64)


def _is_depthwise(node: FoldedNode) -> bool:
    return isinstance(node, FoldedConv) and node.depthwise


def _scale_groups(graph: FoldedGraph) -> list[set[str]]:
    """Return the sets of tensors that must be scaled together and may be scaled at all."""
    parent = {name: name for name in (INPUT, *(node.name for node in graph.nodes))}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    fixed = {INPUT, *(tensor for tensor, _ in graph.outputs)}
    for node in graph.nodes:
        if isinstance(node, (G.FoldedAdd, G.FoldedMaxPool, G.FoldedUpsample, G.FoldedAvgPool)):
            for name in node.inputs:
                parent[root(name)] = root(node.name)
        elif not isinstance(node, FoldedConv):
            fixed |= {node.name, *node.inputs}
        elif node.groups > 1 and not _is_depthwise(node):
            fixed |= set(node.inputs)
        if node.activation not in HOMOGENEOUS:
            fixed.add(node.name)
    frozen = {root(name) for name in fixed}
    groups: dict[str, set[str]] = {}
    for node in graph.nodes:
        if root(node.name) not in frozen:
            groups.setdefault(root(node.name), set()).add(node.name)
    return list(groups.values())

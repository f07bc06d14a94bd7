# SPDX-License-Identifier: Apache-2.0
"""Channel equalisation: the float function stays the same, the channels' ranges come closer.

A channel with a range far below the tensor's loses all its precision to the common step. Where every operator
around a tensor commutes with a positive factor per channel (convolution, add, pools, upsample, leaky, relu),
the producer's output channel is multiplied by a factor and the consumers' weights for it divided by the same. Behind a
depthwise consumer, whose weights have fraction bits per channel, this costs nothing. Weights are rounded afterwards, so
the factor can be any: a power of two changes no product in float64, any other one no more than its last bits.

Two ways to choose it: `activation_factors` evens the measured ranges of the maps, `weight_exponents` the ranges of
the weights on both sides of a tensor, without images. `scale_channels` applies either.

Reference:
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1;
    here over whole residual chains, and by powers of two where weights are evened.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
MAX_WEIGHT_EXPONENT = 16
"""Weights move by at most 2**16 either way, so that nearly dead channels stay far from float32's limits."""
MAX_SWEEPS = 100
"""Passes over all tensors until weights are even; real networks need about ten."""

Factors = dict[str, Float64Array]
"""Tensor -> [C] factors above 0."""
Exponents = dict[str, IntArray]
"""Tensor -> [C] exponents e of the factors 2**e."""


@dataclass(frozen=True)
class ScaleGroup:
    """Tensors that are scaled together, channel by channel.

    Attributes:
        members: The tensors.
        producers: The convolutions among them, whose output channels grow.
        consumers: The convolutions that read them, whose input channels shrink.
    """

    members: tuple[str, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]


def activation_factors(graph: FoldedGraph, ranges: dict[str, Float64Array], strength: float) -> Factors:
    """Return factors that bring the channel ranges of every map closer together.

    For tensors read by depthwise convolutions only, the ranges end equal (dead channels aside).

    Args:
        graph: The folded network.
        ranges: [C] largest magnitude of every node's channels, over the calibration images.
        strength: Share of the (logarithmic) distance to the largest channel that is closed behind dense consumers, in
            [0, 1].
    """
    return {name: np.exp2(rise) for name, rise in _activation_rises(graph, ranges, strength).items()}


def activation_exponents(graph: FoldedGraph, ranges: dict[str, Float64Array], strength: float) -> Exponents:
    """Return the powers of two next below `activation_factors`; the ranges then end within a factor of 2."""
    rises = _activation_rises(graph, ranges, strength)
    return {name: np.floor(rise).astype(np.int64) for name, rise in rises.items()}


def powers_of_two(exponents: Exponents) -> Factors:
    """Return the factors ``2**e``."""
    return {name: np.ldexp(1.0, e) for name, e in exponents.items()}


def _activation_rises(graph: FoldedGraph, ranges: dict[str, Float64Array], strength: float) -> Factors:
    """Return the logarithms of `activation_factors`."""
    nodes = {node.name: node for node in graph.nodes}
    found: Factors = {}
    for group in scale_groups(graph):
        depthwise = all(_is_depthwise(nodes[name]) for name in group.consumers)
        largest = np.max([ranges[name] for name in group.members], axis=0)
        found |= dict.fromkeys(group.members, _rise(largest, depthwise, strength))
    return found


def weight_exponents(graph: FoldedGraph) -> Exponents:
    r"""Return exponents that even the weights' ranges on both sides of every tensor, Nagel's cross-layer form.

    With the precisions :math:`p_i = r^{(1)}_i / R^{(1)}` of the producer's output channel i and :math:`q_i` of the
    consumer's input channel i (r the channel's, R the layer's largest magnitude), the product
    :math:`\sum_i p_i q_i` is largest where both are equal (eq. 9), so

    .. math:: e_i = -\lfloor \tfrac{1}{2} \log_2 (p_i / q_i) \rceil

    in sweeps over all tensors until no exponent moves: then p_i and q_i lie within a factor of 2 of each other, dead
    channels aside. Of several producers or consumers the most precise counts.
    """
    groups = [group for group in scale_groups(graph) if group.producers and group.consumers]
    total = {group: np.zeros(_width(graph, group), np.int64) for group in groups}
    nodes = {node.name: node for node in graph.nodes if isinstance(node, FoldedConv)}
    for _ in range(MAX_SWEEPS):
        moved = False
        for group in groups:
            out = np.max([_precision(nodes[name].weight, 0) for name in group.producers], axis=0)
            into = np.max(
                [_precision(nodes[name].weight, _input_axis(nodes[name])) for name in group.consumers], axis=0
            )
            alive = (out > 0) & (into > 0)
            distance = np.log2(np.where(alive, out, 1.0)) - np.log2(np.where(alive, into, 1.0))
            step = -np.trunc(np.where(np.abs(distance) > 1, distance / 2 + np.copysign(0.5, distance), 0.0))
            wanted = np.clip(total[group] + step.astype(np.int64), -MAX_WEIGHT_EXPONENT, MAX_WEIGHT_EXPONENT)
            change = wanted - total[group]
            if change.any():
                moved, total[group] = True, wanted
                _scale_group(nodes, group, np.ldexp(1.0, change))
        if not moved:
            break
    return {name: total[group] for group in groups for name in group.members}


def scale_channels(graph: FoldedGraph, factors: Factors) -> FoldedGraph:
    """Multiply channels by factors and divide the weights that read them.

    Before: any graph.  After: tensor t's channel c is ``factors[t][c]`` times what it was.  Changes values: only by
    these factors, powers of two exactly, short of float64's underflow; the outputs then stay the same bit by bit.

    Args:
        graph: The folded network.
        factors: Of tensors that may be scaled, see `scale_groups`; tensors of one group have the same ones.
    """
    nodes = {node.name: node for node in graph.nodes if isinstance(node, FoldedConv)}
    for group in scale_groups(graph):
        if group.members[0] in factors:
            _scale_group(nodes, group, factors[group.members[0]])
    return replace(graph, nodes=tuple(nodes.get(node.name, node) for node in graph.nodes))


def scale_groups(graph: FoldedGraph) -> list[ScaleGroup]:
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
        elif node.groups > 1 and not node.depthwise:
            fixed |= set(node.inputs)
        if node.activation not in HOMOGENEOUS:
            fixed.add(node.name)
    frozen = {root(name) for name in fixed}
    grouped: dict[str, list[str]] = {}
    for node in graph.nodes:
        if root(node.name) not in frozen:
            grouped.setdefault(root(node.name), []).append(node.name)
    convs = [node for node in graph.nodes if isinstance(node, FoldedConv)]
    return [
        ScaleGroup(
            tuple(members),
            tuple(node.name for node in convs if node.name in members),
            tuple(node.name for node in convs if node.inputs[0] in members),
        )
        for members in grouped.values()
    ]


def _scale_group(nodes: dict[str, FoldedConv], group: ScaleGroup, factors: Float64Array) -> None:
    column = factors.reshape(-1, 1, 1, 1)
    for name in group.producers:
        node = nodes[name]
        nodes[name] = replace(node, weight=node.weight * column, bias=node.bias * factors)
    for name in group.consumers:
        node = nodes[name]
        divisors = column if node.depthwise else column.reshape(1, -1, 1, 1)
        nodes[name] = replace(node, weight=node.weight / divisors)


def _rise(largest: Float64Array, depthwise: bool, strength: float) -> Float64Array:
    """Return by how many octaves channels grow."""
    top = largest.max()
    if top == 0:
        return np.zeros(largest.shape)
    distance = np.log2(top / np.maximum(largest, top * 2.0**-MAX_DEPTHWISE_EXPONENT))
    limit = MAX_DEPTHWISE_EXPONENT if depthwise else MAX_DENSE_EXPONENT
    return np.asarray(np.clip(distance * (1.0 if depthwise else strength), 0, limit), np.float64)


def _precision(weight: Float64Array, axis: int) -> Float64Array:
    """Return the largest magnitude of every channel along `axis` over the layer's."""
    rows = np.abs(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)).max(1)
    top = rows.max()
    return np.asarray(rows / top if top > 0 else rows, np.float64)


def _input_axis(node: FoldedConv) -> int:
    """Return the axis of the weights that runs over input channels."""
    return 0 if node.depthwise else 1


def _is_depthwise(node: FoldedNode) -> bool:
    return isinstance(node, FoldedConv) and node.depthwise


def _width(graph: FoldedGraph, group: ScaleGroup) -> int:
    return next(node.shape.c for node in graph.nodes if node.name == group.members[0])

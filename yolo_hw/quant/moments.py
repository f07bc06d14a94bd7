# SPDX-License-Identifier: Apache-2.0
r"""Expected maps without images: what batch norms know about the values behind them.

A batch norm with shift :math:`\beta` and scale :math:`\gamma` puts out values of mean :math:`\beta` and standard
deviation :math:`|\gamma|`; taken as normally distributed, their mean behind any activation follows. For relu

.. math:: E[\max(x, 0)] = \gamma \phi(\beta / \gamma) + \beta \Phi(\beta / \gamma)

and leaky with slope a is :math:`\max(x, 0) - a \max(-x, 0)`; other functions are integrated by Gauss-Hermite
quadrature.

Reference:
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2.1 and
    appendix C (the clipped normal distribution).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from yolo_hw.intgraph.graph import INPUT
from yolo_hw.nn.activations import LEAKY_SLOPE, activate
from yolo_hw.quant import folded as G
from yolo_hw.quant.equalise import Factors
from yolo_hw.quant.execute import raw_result
from yolo_hw.quant.folded import Float64Array, FoldedConv, FoldedGraph, FoldedNode
from yolo_hw.quant.source import TracedModel, norm_vectors

QUADRATURE_POINTS = 64


class Moments(NamedTuple):
    """Mean [C] and standard deviation [C] of a convolution's values before the activation."""

    mean: Float64Array
    std: Float64Array


def batch_norm_moments(traced: TracedModel) -> dict[str, Moments]:
    """Return the moments behind every batch norm of a model, by the names of its folded nodes."""
    found: dict[str, Moments] = {}
    for name, source in traced.sources.items():
        if source.norm is not None:
            scale, beta, _, var = (vector.detach().double().cpu().numpy() for vector in norm_vectors(source.norm))
            var = np.maximum(var, 0)
            found[name] = Moments(beta, np.abs(scale) * np.sqrt(var / (var + source.norm.eps)))
    return found


def changed_moments(
    moments: dict[str, Moments], factors: Factors, absorbed: dict[str, Float64Array]
) -> dict[str, Moments]:
    """Return the moments of a graph whose channels were scaled and that then had biases absorbed.

    Args:
        moments: Of the graph before.
        factors: What `scale_channels` was given.
        absorbed: What `absorb_biases` took from every tensor.
    """
    changed: dict[str, Moments] = {}
    for name, (mean, std) in moments.items():
        factor = factors.get(name, np.ones(len(mean)))
        changed[name] = Moments(mean * factor - absorbed.get(name, 0.0), std * factor)
    return changed


def expected_maps(graph: FoldedGraph, moments: dict[str, Moments]) -> dict[str, Float64Array]:
    """Return the mean of every tensor's channels, [C] each, NaN where nothing is known.

    Nothing is known of the image, and behind max pools and products; sums, averages and moves of known values are
    known. A convolution without batch norm is known if it is linear and reads what is known.
    """
    means: dict[str, Float64Array] = {INPUT: np.full(graph.input_shape.c, np.nan)}
    for node in graph.nodes:
        inputs = [means[name] for name in node.inputs]
        means[node.name] = _expected(graph, node, inputs, moments.get(node.name))
    return means


def _expected(graph: FoldedGraph, node: FoldedNode, inputs: list[Float64Array], known: Moments | None) -> Float64Array:
    unknown = np.full(node.shape.c, np.nan)
    if isinstance(node, FoldedConv):
        if known is not None:
            return activated_mean(node.activation, known)
        return node.bias + response(node, node.weight, inputs[0]) if node.activation == "linear" else unknown
    if isinstance(node, (G.FoldedMul, G.FoldedMaxPool)):
        return unknown
    if isinstance(node, G.FoldedAdd):
        return np.asarray(np.sum(inputs, axis=0)) if node.activation == "linear" else unknown
    if isinstance(node, G.FoldedAvgPool):
        return inputs[0]
    shapes = {INPUT: graph.input_shape} | {other.name: other.shape for other in graph.nodes}
    maps = [
        torch.from_numpy(mean).reshape(1, -1, 1, 1).expand(1, *shapes[name])
        for name, mean in zip(node.inputs, inputs, strict=True)
    ]
    return np.asarray(raw_result(node, maps, {}).mean((0, 2, 3)).numpy())


def activated_mean(function: str, moments: Moments) -> Float64Array:
    """Return the mean of ``function(x)`` for normally distributed x, [C]."""
    mean, std = moments
    if function == "linear":
        return mean
    if function == "relu":
        return _positive_part(mean, std)
    if function == "leaky":
        return _positive_part(mean, std) - LEAKY_SLOPE * _positive_part(-mean, std)
    points, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_POINTS)
    values = activate(function, torch.from_numpy(mean[:, None] + std[:, None] * points)).numpy()
    return np.asarray(values @ (weights / weights.sum()))


def _positive_part(mean: Float64Array, std: Float64Array) -> Float64Array:
    z = np.divide(mean, std, out=np.zeros_like(mean), where=std > 0)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    share = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in z])
    return np.where(std > 0, std * density + mean * share, np.maximum(mean, 0.0))


def response(conv: FoldedConv, weight: Float64Array, constant: Float64Array) -> Float64Array:
    """Return what weights in the place of a convolution's own make of a map whose channel c is ``constant[c]``.

    Args:
        conv: Gives the groups.
        weight: [K, C / groups, R, S].
        constant: [C].

    Returns:
        [K], without bias; padding is left out of account.
    """
    per_group = constant.reshape(conv.groups, 1, -1)
    taps = weight.sum((2, 3)).reshape(conv.groups, -1, per_group.shape[2])
    return np.asarray((taps * per_group).sum(2).reshape(-1), np.float64)

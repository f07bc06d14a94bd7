# SPDX-License-Identifier: Apache-2.0
r"""Damage from gradients: all units at all word lengths from a few backward passes.

To first order a small change d of a layer's map moves the outputs by J d. With random signs v,
:math:`E[(J^T v)_i^2] = (J^T J)_{ii}`, so

.. math:: \|J d\|^2 \approx \sum_i d_i^2 \, (J^T J)_{ii}
          \approx \sum_i d_i^2 \, \frac{1}{P} \sum_p \Big(\frac{\partial \langle v_p, y \rangle}{\partial x_i}\Big)^2

with the errors d of different pixels and channels taken as uncorrelated: the diagonal of the Gauss-Newton matrix, which
is the Fisher information of outputs with Gaussian noise. It needs no labels, and its unit is that of the output error
itself. d is computed, not modelled: what rounded weights make of the accumulators, or a format of the activations.

Reference:
    Dong et al., "HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks", NeurIPS 2020 (perturbation
    energy times curvature, Hutchinson's estimate); Bekas et al., "An estimator for the diagonal of a matrix", 2007.
"""

from __future__ import annotations

import torch
from torch import Tensor

from yolo_hw.intgraph.graph import INPUT
from yolo_hw.quant.bit_choices import WEIGHTS, Roundings, Unit
from yolo_hw.quant.execute import NodeResult, run_folded

Errors = dict[str, dict[str, list[float]]]
"""Label of a unit -> bits as text -> squared error of every output."""


def curvature_damages(roundings: Roundings, x: Tensor, probes: int, generator: torch.Generator) -> Errors:
    """Estimate what every unit adds to the energies of the outputs.

    Args:
        roundings: The network at its word lengths.
        x: [N, C, H, W] pixels / 256.
        probes: Random directions P.
        generator: Of these.
    """
    graph = roundings.reference
    results = {r.node.name: r for r in run_folded(graph, x.clone().requires_grad_(), roundings.exact)}
    moved = {
        unit.label: [results[name].pre if unit.kind == WEIGHTS else results[name].out for name in unit.members]
        for unit in roundings.units
    }
    leaves = [tensor for tensors in moved.values() for tensor in tensors]
    outputs = [results[name].out for name, _ in graph.outputs]
    curvature = [_curvature(y, leaves, probes, generator) for y in outputs]
    errors: Errors = {}
    place = 0
    with torch.no_grad():
        maps = {INPUT: x} | {name: result.out for name, result in results.items()}
        for unit in roundings.units:
            own = slice(place, place + len(unit.members))
            place = own.stop
            errors[unit.label] = {
                str(bits): [_weighted(squares[own], deltas) for squares in curvature]
                for bits in roundings.bits(unit)
                for deltas in [_deltas(roundings, unit, bits, results, maps)]
            }
    return errors


def _curvature(y: Tensor, leaves: list[Tensor], probes: int, generator: torch.Generator) -> list[Tensor]:
    """Return the diagonal of J^T J for every map."""
    squares = [torch.zeros_like(leaf) for leaf in leaves]
    for _ in range(probes):
        signs = torch.randint(0, 2, y.shape, generator=generator).to(y.dtype) * 2 - 1
        found = torch.autograd.grad(y, leaves, signs, retain_graph=True, allow_unused=True)
        for total, gradient in zip(squares, found, strict=True):
            if gradient is not None:  # the output does not depend on the map
                total.add_(gradient.square(), alpha=1 / probes)
    return squares


def _deltas(
    roundings: Roundings, unit: Unit, bits: int, results: dict[str, NodeResult], maps: dict[str, Tensor]
) -> list[Tensor]:
    """Return what a unit's rounding adds to its maps: to the accumulators of a layer, or to activations."""
    if unit.kind == WEIGHTS:
        node, pre, _ = results[unit.name]
        return [roundings.rounded_sums(node, [maps[name] for name in node.inputs], bits) - pre]
    finish = roundings.simulations[bits].finish
    return [finish(results[name].node, results[name].pre) - results[name].out for name in unit.members]


def _weighted(squares: list[Tensor], deltas: list[Tensor]) -> float:
    return sum(float((s.double() * d.double().square()).sum()) for s, d in zip(squares, deltas, strict=True))

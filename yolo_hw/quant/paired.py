# SPDX-License-Identifier: Apache-2.0
"""The float network and its rounded form side by side, node by node, with a chance to improve each convolution.

Corrections that look at one layer at a time need the same things: what the layer should give, and the inputs it really
gets, from a rounded network in which all layers before it are already corrected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from yolo_hw.fixedpoint import signed_bits
from yolo_hw.intgraph.bounds import conv_sums
from yolo_hw.intgraph.graph import INPUT
from yolo_hw.intgraph.liveness import last_reads
from yolo_hw.quant.execute import ConvParameters, float_finish, float_parameters, image_tensor, raw_result
from yolo_hw.quant.folded import FoldedConv, FoldedGraph
from yolo_hw.quant.plan import ConvCodes, QuantPlan
from yolo_hw.quant.simulate import Simulation

MEMORY_BUDGET = 1 << 30
"""Bytes of feature maps held at a time; decides how many calibration images take part."""


class Layer(NamedTuple):
    """A convolution between the two networks, in float32.

    Attributes:
        node: The convolution.
        wanted: [N, K, Ho, Wo] its values in the float network, before the activation.
        inputs: [N, C, H, W] its input in the rounded network.
        found: [N, K, Ho, Wo] its values in the rounded network, before the activation.
        parameters: Its rounded weight and bias.
    """

    node: FoldedConv
    wanted: Tensor
    inputs: Tensor
    found: Tensor
    parameters: ConvParameters

    def revised(self, parameters: ConvParameters) -> Layer:
        """Return the layer with other parameters."""
        found = raw_result(self.node, [self.inputs], {self.node.name: parameters})
        return self._replace(parameters=parameters, found=found)

    def shifted(self, drift: Tensor) -> Layer:
        """Return the layer with `drift` [K] added to its bias."""
        bias = self.parameters.bias + drift
        return self._replace(
            parameters=self.parameters._replace(bias=bias), found=self.found + drift.reshape(1, -1, 1, 1)
        )

    def mixed(self, other: Layer, channels: Tensor) -> Layer:
        """Return the layer with the parameters of `other` in the output channels where `channels` [K] is true."""
        column = channels.reshape(-1, 1, 1, 1)
        parameters = ConvParameters(
            torch.where(column, other.parameters.weight, self.parameters.weight),
            torch.where(channels, other.parameters.bias, self.parameters.bias),
        )
        return self._replace(parameters=parameters, found=torch.where(column[:, :, 0], other.found, self.found))


def revise_layers(
    simulation: Simulation,
    images: list[npt.NDArray[np.uint8]],
    revise: Callable[[Layer], Layer],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Walk through both networks; what `revise` returns is what the nodes behind see.

    Args:
        simulation: The rounded network.
        images: Calibration batches [N, H, W, C] uint8; as many images take part as `MEMORY_BUDGET` allows.
        revise: Called for every convolution in execution order.
        progress: Called after every node with the nodes done and in all.
    """
    graph = simulation.graph
    stacked = np.concatenate(images)[: image_limit(graph)]
    rounded = {name: ConvParameters(p.weight.float(), p.bias.float()) for name, p in simulation.parameters.items()}
    reference = float_parameters(graph)
    x = image_tensor(stacked)
    maps: dict[str, tuple[Tensor, Tensor]] = {INPUT: (x, x)}
    for i, (node, dying) in enumerate(zip(graph.nodes, last_reads(graph.nodes), strict=True)):
        with torch.no_grad():
            wanted = raw_result(node, [maps[name][0] for name in node.inputs], reference)
            inputs = [maps[name][1] for name in node.inputs]
            found = raw_result(node, inputs, rounded)
        if isinstance(node, FoldedConv):
            found = revise(Layer(node, wanted, inputs[0], found, rounded[node.name])).found
        with torch.no_grad():
            maps[node.name] = (
                wanted if node.moves else float_finish(node, wanted),
                found if node.moves else simulation.finish(node, found),
            )
        for name in dying:
            del maps[name]
        if progress:
            progress(i + 1, len(graph.nodes))


def image_limit(graph: FoldedGraph) -> int:
    """Return how many images fit the budget: live maps of both networks, float32."""
    sizes = {INPUT: graph.input_shape.numel} | {node.name: node.shape.numel for node in graph.nodes}
    live, peak = sizes[INPUT], 0
    for node, dying in zip(graph.nodes, last_reads(graph.nodes), strict=True):
        live += sizes[node.name]
        peak = max(peak, live)
        live -= sum(sizes[name] for name in dying)
    return max(MEMORY_BUDGET // (2 * 4 * peak), 1)


def adopt_codes(graph: FoldedGraph, plan: QuantPlan, chosen: dict[str, ConvCodes]) -> QuantPlan:
    """Return the plan with other weight codes, its formats and biases unchanged.

    A channel keeps the plan's codes, and a note says so, if the others belong to another w_frac (the plan had to lower
    it for a new bias) or would take its sum out of the accumulator.

    Args:
        graph: The folded network.
        plan: The plan so far.
        chosen: Other codes of some convolutions.
    """
    convs, notes = dict(plan.convs), []
    acc_bits = min(plan.config.contract.acc_bits, plan.config.profile.acc_bits)
    for node in graph.nodes:
        if node.name not in chosen:
            continue
        old, new, x = convs[node.name], chosen[node.name], plan.formats[node.inputs[0]]
        bottom, top = conv_sums(new.weight, old.bias, min(x.lo, 0), x.hi)
        bits = np.array([signed_bits(int(lo), int(hi)) for lo, hi in zip(bottom, top, strict=True)])
        keep = (bits > acc_bits) | (new.w_frac != old.w_frac)
        weight = np.where(keep.reshape(-1, 1, 1, 1), old.weight, new.weight)
        convs[node.name] = replace(old, weight=weight)
        if keep.any():
            notes.append(
                f"{node.name}: {int(keep.sum())} of {len(keep)} channels rounded to nearest to keep sums legal"
            )
    return replace(plan, convs=convs, notes=[*plan.notes, *notes])

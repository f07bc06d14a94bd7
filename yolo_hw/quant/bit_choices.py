# SPDX-License-Identifier: Apache-2.0
"""What word lengths can be chosen for: the weights of every layer, and every group of tensors with one format.

`Roundings` holds what each choice makes of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from yolo_hw.errors import QuantError
from yolo_hw.quant import folded as G
from yolo_hw.quant.calibrate import Calibrated, ImageBatch, Progress, calibrate, make_plan
from yolo_hw.quant.config import Override, QuantConfig
from yolo_hw.quant.execute import ConvParameters, float_finish, float_parameters, raw_result
from yolo_hw.quant.folded import FoldedGraph, FoldedNode
from yolo_hw.quant.groups import format_groups
from yolo_hw.quant.partial_run import Change
from yolo_hw.quant.simulate import Simulation
from yolo_hw.quant.weights import dequantised

WEIGHTS, ACTIVATIONS = "w", "a"


@dataclass(frozen=True)
class Unit:
    """What has one word length.

    Attributes:
        kind: `WEIGHTS` of a layer, or `ACTIVATIONS` of a format group.
        name: The layer; the first computed tensor of the group.
        members: The layer; all computed tensors of the group.
    """

    kind: str
    name: str
    members: tuple[str, ...]

    @property
    def label(self) -> str:
        """``w:conv_3`` or ``a:conv_3``, unique in a network."""
        return f"{self.kind}:{self.name}"

    def overrides(self, bits: int) -> tuple[Override, ...]:
        """Return the options that give the unit a word length."""
        if self.kind == WEIGHTS:
            return (Override(self.name, w_bits=bits),)
        return tuple(Override(name, a_bits=bits) for name in self.members)


def bit_units(graph: FoldedGraph, config: QuantConfig) -> tuple[Unit, ...]:
    """Return the units of a network: layers with weights, then format groups, each in execution order."""
    weights = [Unit(WEIGHTS, node.name, (node.name,)) for node in graph.nodes if isinstance(node, G.FoldedConv)]
    groups = [Unit(ACTIVATIONS, group.producers[0], group.producers) for group in format_groups(graph, config)]
    return (*weights, *groups)


class Roundings:
    """A network's weights and formats at several word lengths, each chosen as calibration would."""

    def __init__(
        self,
        calibrated: Calibrated,
        batches: Sequence[ImageBatch],
        w_bits: Sequence[int],
        a_bits: Sequence[int],
        progress: Progress | None = None,
    ) -> None:
        """Calibrate once for every word length of activations; weights need no images.

        Args:
            calibrated: The network at the word lengths of its options.
            batches: Calibration images.
            w_bits: Word lengths of weights.
            a_bits: Word lengths of activations.
            progress: See `calibrate`.
        """
        self.reference = calibrated.reference
        self.exact = float_parameters(self.reference)
        # Of a calibration only the formats are used: what comes behind their choice would be lost.
        self.config = replace(
            calibrated.plan.config,
            overrides=(),
            equalise=None,
            absorb_biases=False,
            bias_correction=False,
            adaround=None,
        )
        self.corrects_means = calibrated.plan.config.bias_correction
        self.units = bit_units(self.reference, self.config)
        self._by_name = {node.name: node for node in self.reference.nodes}
        plan = calibrated.plan
        arguments = {name: table.fmt for name, table in plan.tables.items()}
        self.weights: dict[int, dict[str, Tensor]] = {}
        for bits in w_bits:
            found = make_plan(self.reference, plan.formats, arguments, replace(self.config, w_bits=bits))
            self.weights[bits] = {
                name: torch.from_numpy(dequantised(codes, 0)[0]).float() for name, codes in found.convs.items()
            }
        self.simulations = {
            bits: Simulation(
                self.reference,
                calibrate(self.reference, batches, replace(self.config, a_bits=bits), progress).plan,
            )
            for bits in a_bits
        }

    def bits(self, unit: Unit) -> tuple[int, ...]:
        """Return the word lengths a unit can have, rising."""
        return tuple(sorted(self.weights if unit.kind == WEIGHTS else self.simulations))

    def changes(self, unit: Unit, bits: int) -> dict[str, Change]:
        """Return what computes the nodes of a unit at a word length, all else in float.

        Rounded weights keep the mean of every channel over the batch where biases are corrected.

        Raises:
            QuantError: There is no such word length.
        """
        if bits not in self.bits(unit):
            raise QuantError(f"{unit.label}: bits must be one of {self.bits(unit)}, got {bits}")
        if unit.kind == WEIGHTS:
            return {unit.name: lambda node, inputs: float_finish(node, self.rounded_sums(node, inputs, bits))}
        finish = self.simulations[bits].finish
        return dict.fromkeys(unit.members, lambda node, inputs: finish(node, raw_result(node, inputs, self.exact)))

    def rounded_sums(self, node: FoldedNode, inputs: list[Tensor], bits: int) -> Tensor:
        """Return the accumulators [N, K, h, w] of a convolution with weights of `bits` bits."""
        rounded = ConvParameters(self.weights[bits][node.name], self.exact[node.name].bias)
        found = raw_result(node, inputs, {node.name: rounded})
        if self.corrects_means:
            found = found + (raw_result(node, inputs, self.exact) - found).mean((0, 2, 3), keepdim=True)
        return found

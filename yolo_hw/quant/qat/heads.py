# SPDX-License-Identifier: Apache-2.0
"""The last layers of a network, which training may leave wide or in float."""

from __future__ import annotations

import glob
from dataclasses import replace

from torch import Tensor

from yolo_hw.fixedpoint import MAX_BITS
from yolo_hw.quant.config import Override, QuantConfig
from yolo_hw.quant.folded import FoldedConv, FoldedGraph
from yolo_hw.quant.qat.config import HeadForm
from yolo_hw.quant.qat.quantiser import FracLimits, RangeQuantiser


def head_nodes(graph: FoldedGraph) -> tuple[str, ...]:
    """Return the nodes that compute what leaves the network, in order; nodes that only move values are passed."""
    wanted = {tensor for tensor, _ in graph.outputs}
    found = []
    for node in reversed(graph.nodes):
        if node.name in wanted:
            if node.moves:
                wanted.update(node.inputs)
            else:
                found.append(node.name)
    return tuple(reversed(found))


def widen_heads(config: QuantConfig, graph: FoldedGraph, form: HeadForm) -> QuantConfig:
    """Return the options with the most bits for weights and outputs of the heads, if the form asks for them.

    Raises:
        QuantError: The target has no such word.
    """
    if form is HeadForm.QUANTISED:
        return config
    nodes = {node.name: node for node in graph.nodes}
    wide = tuple(
        Override(glob.escape(name), MAX_BITS if isinstance(nodes[name], FoldedConv) else None, MAX_BITS)
        for name in head_nodes(graph)
    )
    return replace(config, overrides=(*config.overrides, *wide))


class FloatQuantiser(RangeQuantiser):
    """Rounds in evaluation only; in training it follows the ranges of what it lets pass.

    Once it is frozen it rounds in training, too.
    """

    @property
    def rounds(self) -> bool:
        """See `Quantiser.rounds`."""
        return not self.training or self.rests

    def forward(self, x: Tensor, limits: FracLimits | None = None) -> Tensor:
        """See `Quantiser.forward`."""
        if self.rounds:
            return self._round(x, self.frac(limits))
        self._follow(x, self.momentum)
        return x

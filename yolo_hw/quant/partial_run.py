# SPDX-License-Identifier: Apache-2.0
"""Running the float network with a few nodes changed, from the first of them on.

What lies before a changed node is as in float, so its maps are taken from an earlier run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from yolo_hw.darknet.layers import HeadSpec, Shape
from yolo_hw.errors import QuantError
from yolo_hw.intgraph.graph import INPUT
from yolo_hw.intgraph.liveness import last_reads
from yolo_hw.quant.calibrate import ImageBatch
from yolo_hw.quant.execute import ConvParameters, float_finish, float_parameters, image_tensor, raw_result, run_folded
from yolo_hw.quant.folded import FoldedGraph, FoldedNode

MEMORY_BUDGET = 1 << 30
"""Bytes of float maps kept at a time."""

Change = Callable[[FoldedNode, list[Tensor]], Tensor]
"""Node and inputs [N, C, H, W] -> output of the changed node."""


def bounded_batches(graph: FoldedGraph, batches: Sequence[ImageBatch], copies: int = 1) -> list[ImageBatch]:
    """Return the images in batches of which `copies` of all float maps together fit `MEMORY_BUDGET`."""
    values = graph.input_shape.numel + sum(node.shape.numel for node in graph.nodes)
    size = max(MEMORY_BUDGET // (4 * values * copies), 1)
    return [batch[start : start + size] for batch in batches for start in range(0, len(batch), size)]


def float_maps(graph: FoldedGraph, x: Tensor, parameters: dict[str, ConvParameters]) -> dict[str, Tensor]:
    """Return every map of the float network, the input's included."""
    return {INPUT: x} | {result.node.name: result.out for result in run_folded(graph, x, parameters)}


def outputs_with(
    graph: FoldedGraph,
    known: Mapping[str, Tensor],
    changed: Mapping[str, Change],
    parameters: dict[str, ConvParameters],
) -> list[Tensor]:
    """Return the network's outputs with some nodes changed.

    Args:
        graph: The float network.
        known: Maps of the unchanged network: the input's, and any others, which are not computed again.
        changed: What computes the changed nodes.
        parameters: Weights of the unchanged convolutions.

    Returns:
        One map [N, C, H, W] per output.
    """
    fresh: dict[str, Tensor] = {}
    kept = {name for name, _ in graph.outputs}
    differs: set[str] = set()
    for node, dying in zip(graph.nodes, last_reads(graph.nodes), strict=True):
        if node.name in changed or node.name not in known or not differs.isdisjoint(node.inputs):
            inputs = [fresh[name] if name in fresh else known[name] for name in node.inputs]
            if node.name in changed:
                fresh[node.name] = changed[node.name](node, inputs)
            else:
                pre = raw_result(node, inputs, parameters)
                fresh[node.name] = pre if node.moves else float_finish(node, pre)
            differs.add(node.name)
        for name in dying - kept:
            fresh.pop(name, None)
    return [fresh[name] if name in fresh else known[name] for name, _ in graph.outputs]


class FoldedRunner:
    """The float network with some nodes changed, as a runner of images for scores such as average precision."""

    def __init__(self, graph: FoldedGraph, changed: Mapping[str, Change] | None = None) -> None:
        """Remember what is run.

        Raises:
            QuantError: An output is no detection head.
        """
        self.graph = graph
        self.changed = changed or {}
        self._parameters = float_parameters(graph)
        loose = [name for name, head in graph.outputs if head is None]
        if loose:
            raise QuantError(f"{graph.name}: a score needs detection heads, output {loose[0]} is none")

    @property
    def input_shape(self) -> Shape:
        """Shape of the network's input."""
        return self.graph.input_shape

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """The heads, in the order of the maps."""
        return tuple(head for _, head in self.graph.outputs if head is not None)

    def run(self, images: npt.NDArray[np.uint8]) -> list[Tensor]:
        """[N, H, W, C] uint8 to one float map [N, K, h, w] per head."""
        with torch.inference_mode():
            return outputs_with(self.graph, {INPUT: image_tensor(images)}, self.changed, self._parameters)

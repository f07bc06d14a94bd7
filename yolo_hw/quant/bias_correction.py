# SPDX-License-Identifier: Apache-2.0
"""Bias correction: rounding shifts the mean of a channel, the bias shifts it back.

The float network and its rounded form run side by side, node by node; behind every convolution the difference of
the channel means over the calibration images goes into the bias before the next node is computed.

Reference:
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2
    (the empirical form, appendix D).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from yolo_hw.intgraph.graph import INPUT
from yolo_hw.intgraph.liveness import last_reads
from yolo_hw.quant.execute import ConvParameters, float_finish, float_parameters, raw_result
from yolo_hw.quant.folded import FoldedConv, FoldedGraph, FoldedNode
from yolo_hw.quant.plan import QuantPlan
from yolo_hw.quant.simulate import Simulation

MEMORY_BUDGET = 1 << 30
"""Bytes of feature maps held at a time; decides how many calibration images take part."""


def correct_biases(
    graph: FoldedGraph,
    plan: QuantPlan,
    images: list[npt.NDArray[np.uint8]],
    progress: Callable[[str, int, int], None] | None = None,
) -> FoldedGraph:
    """Return the graph with corrected biases.

    Before: channel means of the rounded network drift from the float ones.  After: they agree behind every convolution,
    on the images used.  Changes values: only biases.

    Args:
        graph: The folded network `plan` was made for.
        plan: Formats, weight codes and tables.
        images: Calibration batches [N, H, W, C] uint8; as many images take part as `MEMORY_BUDGET` allows.
        progress: Called after every node.
    """
    stacked = np.concatenate(images)[: _image_limit(graph)]
    simulation = Simulation(graph, plan)
    rounded = {name: ConvParameters(p.weight.float(), p.bias.float()) for name, p in simulation.parameters.items()}
    reference = float_parameters(graph)
    x = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 256
    maps: dict[str, tuple[Tensor, Tensor]] = {INPUT: (x, x)}
    corrected: dict[str, FoldedNode] = {}
    with torch.inference_mode():
        for i, (node, dying) in enumerate(zip(graph.nodes, last_reads(graph.nodes), strict=True)):
            wanted = raw_result(node, [maps[name][0] for name in node.inputs], reference)
            found = raw_result(node, [maps[name][1] for name in node.inputs], rounded)
            if isinstance(node, FoldedConv):
                drift = (wanted - found).mean((0, 2, 3))
                found = found + drift.reshape(1, -1, 1, 1)
                corrected[node.name] = replace(node, bias=node.bias + drift.double().numpy())
            maps[node.name] = (
                wanted if node.moves else float_finish(node, wanted),
                found if node.moves else simulation.finish(node, found),
            )
            for name in dying:
                del maps[name]
            if progress:
                progress("biases", i + 1, len(graph.nodes))
    return replace(graph, nodes=tuple(corrected.get(node.name, node) for node in graph.nodes))


def _image_limit(graph: FoldedGraph) -> int:
    """Return how many images fit the budget: live maps of both networks, float32."""
    sizes = {INPUT: graph.input_shape.numel} | {node.name: node.shape.numel for node in graph.nodes}
    live, peak = sizes[INPUT], 0
    for node, dying in zip(graph.nodes, last_reads(graph.nodes), strict=True):
        live += sizes[node.name]
        peak = max(peak, live)
        live -= sum(sizes[name] for name in dying)
    return max(MEMORY_BUDGET // (2 * 4 * peak), 1)

# SPDX-License-Identifier: Apache-2.0
"""Bias correction: rounding shifts the mean of a channel, the bias shifts it back.

`correct_biases` measures: the float network and its rounded form run side by side, node by node; behind every
convolution the difference of the channel means over the calibration images goes into the bias before the next node is
computed. `correct_biases_analytically` computes the same difference from the rounding errors of the weights and the
means that batch norms promise of the maps; it sees neither the rounding of maps nor clipping nor padding.

Reference:
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2
    (the empirical form, appendix D).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from yolo_hw.fixedpoint import dequantise
from yolo_hw.quant.folded import Float64Array, FoldedConv, FoldedGraph
from yolo_hw.quant.moments import Moments, expected_maps, response
from yolo_hw.quant.paired import Layer, revise_layers
from yolo_hw.quant.plan import QuantPlan
from yolo_hw.quant.simulate import Simulation


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
    drifts: dict[str, Float64Array] = {}

    def revise(layer: Layer) -> Layer:
        drift = mean_drift(layer)
        drifts[layer.node.name] = drift.double().numpy()
        return layer.shifted(drift)

    report = None if progress is None else lambda done, total: progress("biases", done, total)
    revise_layers(Simulation(graph, plan), images, revise, report)
    return add_to_biases(graph, drifts)


def mean_drift(layer: Layer) -> Tensor:
    """Return what is missing in every channel's mean, [K]."""
    return (layer.wanted - layer.found).mean((0, 2, 3))


def correct_biases_analytically(
    graph: FoldedGraph, plan: QuantPlan, moments: dict[str, Moments]
) -> tuple[FoldedGraph, list[str]]:
    r"""Return the graph with biases corrected by :math:`-\epsilon E[x]`, eps being the weights' rounding errors.

    Before: rounded weights shift the channel means.  After: not in expectation.  Changes values: only biases.

    Args:
        graph: The folded network `plan` was made for.
        plan: Formats and weight codes.
        moments: Of the graph's batch norms, see `yolo_hw.quant.moments`.

    Returns:
        The graph, and the names of the convolutions that read a channel of unknown mean (the image, max pools,
        products, layers without batch norm); such channels count as zero.
    """
    means = expected_maps(graph, moments)
    drifts: dict[str, Float64Array] = {}
    unknown: list[str] = []
    for node in graph.nodes:
        if not isinstance(node, FoldedConv):
            continue
        mean = means[node.inputs[0]]
        codes = plan.convs[node.name]
        error = dequantise(codes.weight, codes.w_frac.reshape(-1, 1, 1, 1)) - node.weight
        drifts[node.name] = -response(node, error, np.nan_to_num(mean))
        if np.isnan(mean).any():
            unknown.append(node.name)
    return add_to_biases(graph, drifts), unknown


def add_to_biases(graph: FoldedGraph, drifts: dict[str, Float64Array]) -> FoldedGraph:
    """Return the graph with ``drifts[name]`` [K] added to the biases of convolutions."""
    nodes = tuple(
        replace(node, bias=node.bias + drifts[node.name])
        if isinstance(node, FoldedConv) and node.name in drifts
        else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)

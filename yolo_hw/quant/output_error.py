# SPDX-License-Identifier: Apache-2.0
"""The error of an integer graph's outputs, measured with the engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from yolo_hw.errors import QuantError
from yolo_hw.intgraph.engine import Engine
from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.quant.calibrate import ImageBatch
from yolo_hw.quant.execute import float_parameters, image_tensor, run_folded
from yolo_hw.quant.folded import FoldedGraph


def output_damage(reference: FoldedGraph, graph: IntGraph, batches: Sequence[ImageBatch], threads: int = 1) -> float:
    """Return ``sum (y' - y)**2 / sum y**2`` over all images, the mean over the outputs.

    What `yolo_hw.quant.sensitivity.Metric.OUTPUT_ERROR` is of one unit, of the whole network.

    Args:
        reference: The float network.
        graph: The integer one.
        batches: Images [N, H, W, C] uint8.
        threads: Of the engine.

    Raises:
        QuantError: The outputs are of other names, or all zero in float.
    """
    names = [name for name, _ in reference.outputs]
    if names != [output.tensor for output in graph.outputs]:
        raise QuantError(f"{graph.name}: the outputs must be those of the float network, {', '.join(names)}")
    engine, parameters = Engine(graph, threads=threads), float_parameters(reference)
    error, energy = np.zeros(len(names)), np.zeros(len(names))
    for batch in batches:
        with torch.inference_mode():
            maps = {
                r.node.name: r.out
                for r in run_folded(reference, image_tensor(batch), parameters)
                if r.node.name in names
            }
        for i, (name, codes) in enumerate(zip(names, engine.run_batch(batch.transpose(0, 3, 1, 2)), strict=True)):
            exact = maps[name].double().numpy()
            error[i] += ((codes * graph.tensors[name].fmt.step - exact) ** 2).sum()
            energy[i] += (exact**2).sum()
    if not energy.any():
        raise QuantError(f"{graph.name}: the outputs must not all be zero on all images")
    return float((error[energy > 0] / energy[energy > 0]).mean())

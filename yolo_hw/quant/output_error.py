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


class OutputError:
    """Integer graph -> ``sum (y' - y)**2 / sum y**2`` over all images, the mean over the outputs.

    What `yolo_hw.quant.sensitivity.Metric.OUTPUT_ERROR` is of one unit, of the whole network.
    """

    def __init__(self, reference: FoldedGraph, batches: Sequence[ImageBatch]) -> None:
        """Run the float network.

        Args:
            reference: It.
            batches: Images [N, H, W, C] uint8.

        Raises:
            QuantError: The outputs are all zero.
        """
        self._names = [name for name, _ in reference.outputs]
        self._batches, self._exact = list(batches), []
        parameters = float_parameters(reference)
        for batch in self._batches:
            with torch.inference_mode():
                results = run_folded(reference, image_tensor(batch), parameters)
                maps = {r.node.name: r.out.numpy() for r in results if r.node.name in self._names}
            self._exact.append([maps[name] for name in self._names])
        self._energy = np.sum([[(y.astype(np.float64) ** 2).sum() for y in maps] for maps in self._exact], axis=0)
        if not self._energy.any():
            raise QuantError(f"{reference.name}: the outputs must not all be zero on all images")

    def __call__(self, graph: IntGraph, threads: int = 1) -> float:
        """Return the error of a graph.

        Args:
            graph: The network in integers.
            threads: Of the engine.

        Raises:
            QuantError: Its outputs are of other names.
        """
        if self._names != [output.tensor for output in graph.outputs]:
            known = ", ".join(self._names)
            raise QuantError(f"{graph.name}: the outputs must be those of the float network, {known}")
        engine, error = Engine(graph, threads=threads), np.zeros(len(self._names))
        for batch, maps in zip(self._batches, self._exact, strict=True):
            found = engine.run_batch(batch.transpose(0, 3, 1, 2))
            for i, (name, exact, codes) in enumerate(zip(self._names, maps, found, strict=True)):
                error[i] += ((codes * graph.tensors[name].fmt.step - exact.astype(np.float64)) ** 2).sum()
        counted = self._energy > 0
        return float((error[counted] / self._energy[counted]).mean())


def output_damage(reference: FoldedGraph, graph: IntGraph, batches: Sequence[ImageBatch], threads: int = 1) -> float:
    """Return the `OutputError` of one graph."""
    return OutputError(reference, batches)(graph, threads)

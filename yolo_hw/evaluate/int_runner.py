# SPDX-License-Identifier: Apache-2.0
"""The integer engine as a head runner."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from yolo_hw.darknet.layers import HeadSpec, Shape
from yolo_hw.errors import YoloHwError
from yolo_hw.intgraph.engine import Engine
from yolo_hw.intgraph.graph import IntGraph


class IntRunner:
    """Runs an integer graph on image bytes; the heads' codes become real numbers only for the decoder."""

    def __init__(self, graph: IntGraph, *, path: str = "auto", threads: int = 0) -> None:
        """Compile the graph for the engine (see `Engine`)."""
        missing = [output.tensor for output in graph.outputs if output.head is None]
        if missing:
            raise YoloHwError(f"{graph.name}: output {missing[0]} is no detection head")
        self.graph = graph
        self.engine = Engine(graph, path=path, threads=threads)

    @property
    def input_shape(self) -> Shape:
        """Shape of the network's input."""
        return self.graph.input_shape

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """The graph's heads."""
        return tuple(output.head for output in self.graph.outputs if output.head is not None)

    def run(self, images: npt.NDArray[np.uint8]) -> list[Tensor]:
        """See `HeadRunner.run`."""
        found = [self.engine.run(image.transpose(2, 0, 1)) for image in images]
        steps = [self.graph.tensors[output.tensor].fmt.step for output in self.graph.outputs]
        return [
            torch.from_numpy(np.stack([codes[k] for codes in found])).float() * step for k, step in enumerate(steps)
        ]

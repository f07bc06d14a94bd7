# SPDX-License-Identifier: Apache-2.0
"""The integer graph: the border between floating point and hardware. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from yolo_hw.darknet.layers import HeadSpec, Shape
from yolo_hw.fixedpoint import FixedPoint
from yolo_hw.intgraph.nodes import Node, TensorInfo
from yolo_hw.intgraph.requant import NumericContract

INPUT = "input"
"""Name of the tensor that holds the image."""

INPUT_FORMAT = FixedPoint(bits=8, frac=8, signed=False)
"""An image byte p stands for p / 256; the factor 256/255 of nets trained on p / 255 is in the first weights."""


@dataclass(frozen=True)
class Output:
    """A tensor that leaves the graph as raw codes, and how the host decodes it.

    Attributes:
        tensor: Its name.
        head: Decoding of a detection head, None for other outputs.
    """

    tensor: str
    head: HeadSpec | None = None


@dataclass(frozen=True, eq=False)
class IntGraph:
    """A network in integers: nodes in execution order, explicit edges, a format for every tensor.

    Attributes:
        name: Name of the network.
        contract: Arithmetic shared by all nodes.
        nodes: In execution order.
        tensors: Shape and format of the input and of every node's output.
        outputs: What leaves the graph.
    """

    name: str
    contract: NumericContract
    nodes: tuple[Node, ...]
    tensors: dict[str, TensorInfo]
    outputs: tuple[Output, ...]

    @property
    def input_shape(self) -> Shape:
        """Shape of the image."""
        return self.tensors[INPUT].shape

    def node(self, name: str) -> Node:
        """Return the node called `name`."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def inputs_of(self, node: Node) -> list[TensorInfo]:
        """Return shape and format of a node's inputs."""
        return [self.tensors[name] for name in node.inputs]

    def output_of(self, node: Node) -> TensorInfo:
        """Return shape and format of a node's output."""
        return self.tensors[node.name]

    def consumers(self, tensor: str) -> Iterator[Node]:
        """Yield the nodes that read `tensor`."""
        return (node for node in self.nodes if tensor in node.inputs)

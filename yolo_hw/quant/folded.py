# SPDX-License-Identifier: Apache-2.0
"""The folded graph: a float network reduced to the operators that have an integer meaning.

Same vocabulary as the integer graph, with float64 weights: batch norms are folded, identities and single
routes are gone, SE blocks, weighted shortcuts and fully connected layers are spelt out. Calibration, the
float64 simulation and lowering all walk this graph, so the three agree on what a node is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from yolo_hw.darknet.layers import HeadSpec, Shape
from yolo_hw.geometry import Window

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedNode:
    """A node that produces the tensor called like itself.

    Attributes:
        name: Unique name.
        inputs: Names of the tensors it reads.
        shape: Shape of the output.
        activation: Darknet's name of the fused activation; linear for nodes that have none.
    """

    moves: ClassVar[bool] = False
    """Whether the node only moves values, so that its inputs and output share one format."""

    name: str
    inputs: tuple[str, ...]
    shape: Shape
    activation: str = "linear"


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedConv(FoldedNode):
    """Convolution with weights [K, C / groups, R, S] and bias [K]."""

    weight: Float64Array
    bias: Float64Array
    window: Window
    groups: int = 1

    @property
    def depthwise(self) -> bool:
        """Whether output channel k reads exactly input channel k."""
        return bool(self.groups == self.weight.shape[0] and self.weight.shape[1] == 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedAdd(FoldedNode):
    """Sum of the inputs."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedMul(FoldedNode):
    """Product of a map and factors that broadcast over it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedAvgPool(FoldedNode):
    """Average over the whole map of `count` pixels; the raw result is the sum."""

    count: int


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedMaxPool(FoldedNode):
    """Largest value of every window."""

    moves: ClassVar[bool] = True

    window: Window


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedConcat(FoldedNode):
    """Inputs one after the other along the channels."""

    moves: ClassVar[bool] = True


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedSlice(FoldedNode):
    """Channels [start, stop)."""

    moves: ClassVar[bool] = True

    start: int
    stop: int


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedUpsample(FoldedNode):
    """Every pixel repeated `stride` times in both directions."""

    moves: ClassVar[bool] = True

    stride: int


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedReorg(FoldedNode):
    """Pixels to channels or back."""

    moves: ClassVar[bool] = True

    stride: int
    reverse: bool
    mode: str


@dataclass(frozen=True, eq=False)
class FoldedGraph:
    """The folded network.

    Attributes:
        name: Name of the network.
        input_shape: Shape of the image; its values are pixels / 256.
        nodes: In execution order.
        outputs: (tensor, decoding or None) of what leaves the network.
    """

    name: str
    input_shape: Shape
    nodes: tuple[FoldedNode, ...]
    outputs: tuple[tuple[str, HeadSpec | None], ...]

    def __deepcopy__(self, memo: dict[int, object]) -> FoldedGraph:
        """A graph never changes: copies of what holds one share it."""
        return self

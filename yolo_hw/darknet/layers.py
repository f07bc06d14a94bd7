# SPDX-License-Identifier: Apache-2.0
"""The typed layers of a darknet network, one dataclass per kind, without any framework.

A layer knows its inputs as explicit indices (-1 is the network's input), its shapes and the parameters it
owns in the order of a ``.weights`` file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from yolo_hw.darknet.head_training import RegionTraining, YoloTraining

ACTIVATIONS = (
    "linear leaky relu relu6 mish swish logistic hard_mish h_swish h_sigmoid elu selu gelu tanh loggy relie ramp plse "
    "hardtan lhtan stair"
).split()
"""Activation functions by their darknet names (h_swish and h_sigmoid: the MobileNetV3 dialects)."""

ACTIVATION_ALIASES = {"none": "linear", "hard_swish": "h_swish", "hard_sigmoid": "h_sigmoid", "sigmoid": "logistic"}


class Shape(NamedTuple):
    """Shape of one feature map: channels, height, width."""

    c: int
    h: int
    w: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.c * self.h * self.w

    def __str__(self) -> str:
        return f"{self.c}x{self.h}x{self.w}"


class Param(NamedTuple):
    """One array of a layer in a weights file: its role and shape (float32)."""

    role: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of floats."""
        n = 1
        for extent in self.shape:
            n *= extent
        return n


@dataclass(frozen=True)
class Place:
    """Where a layer stands in the network.

    Attributes:
        index: Position in the cfg; ``[net]`` does not count.
        line: Line of the section header in the cfg.
        inputs: Indices of the producing layers, -1 for the network's input.
        in_shapes: Shape of each input.
    """

    index: int
    line: int
    inputs: tuple[int, ...]
    in_shapes: tuple[Shape, ...]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What all layers have in common: a place in the network and an output shape."""

    kind: ClassVar[str] = "layer"

    place: Place
    shape: Shape

    @property
    def index(self) -> int:
        """Position in the cfg."""
        return self.place.index

    @property
    def inputs(self) -> tuple[int, ...]:
        """Indices of the producing layers, -1 for the network's input."""
        return self.place.inputs

    @property
    def in_shapes(self) -> tuple[Shape, ...]:
        """Shape of each input."""
        return self.place.in_shapes

    @property
    def name(self) -> str:
        """Unique name, for example ``conv_12``; used by modules, graph nodes, files and messages."""
        return f"{self.kind}_{self.index}"

    @property
    def params(self) -> tuple[Param, ...]:
        """The layer's arrays in the order of a weights file."""
        return ()

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of one inference."""
        return 0


def _norm_params(filters: int, batch_normalize: bool) -> tuple[Param, ...]:
    roles = ("bias", "scale", "mean", "var") if batch_normalize else ("bias",)
    return tuple(Param(role, (filters,)) for role in roles)


@dataclass(frozen=True, kw_only=True)
class Convolutional(Layer):
    """Convolution; `padding` is already multiplied by the dilation."""

    kind: ClassVar[str] = "conv"

    size: int
    stride_y: int
    stride_x: int
    padding: int
    dilation: int
    groups: int
    batch_normalize: bool
    activation: str

    @property
    def depthwise(self) -> bool:
        """Whether every output channel reads exactly one input channel of its own."""
        return self.groups == self.in_shapes[0].c == self.shape.c

    @property
    def params(self) -> tuple[Param, ...]:
        """Bias (beta), then scale (gamma), mean and variance, then the weights [K, C/groups, R, S]."""
        weight = Param("weight", (self.shape.c, self.in_shapes[0].c // self.groups, self.size, self.size))
        return (*_norm_params(self.shape.c, self.batch_normalize), weight)

    @property
    def macs(self) -> int:
        """K * C/groups * R * S * Hout * Wout."""
        return self.params[-1].numel * self.shape.h * self.shape.w


@dataclass(frozen=True, kw_only=True)
class Connected(Layer):
    """Fully connected layer on the flattened input; its weights come before the batch-norm arrays."""

    kind: ClassVar[str] = "connected"

    batch_normalize: bool
    activation: str

    @property
    def params(self) -> tuple[Param, ...]:
        """Bias, weights [K, C*H*W], then scale, mean and variance."""
        norm = _norm_params(self.shape.c, self.batch_normalize)
        return (norm[0], Param("weight", (self.shape.c, self.in_shapes[0].numel)), *norm[1:])

    @property
    def macs(self) -> int:
        """K * C * H * W."""
        return self.shape.c * self.in_shapes[0].numel


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Layer):
    """Stand-alone batch normalisation."""

    kind: ClassVar[str] = "batchnorm"

    @property
    def params(self) -> tuple[Param, ...]:
        """Bias, scale, mean, variance, one value per channel."""
        return _norm_params(self.shape.c, True)


@dataclass(frozen=True, kw_only=True)
class Pool(Layer):
    """Max or average pooling in a window; positions outside the map do not take part.

    `padding` is the sum of both sides; ``padding // 2`` of it is at the top and left, the rest at the bottom and right.
    """

    kind: ClassVar[str] = "pool"

    mode: str
    size: int
    stride_y: int
    stride_x: int
    padding: int

    @property
    def name(self) -> str:
        """``maxpool_3`` or ``local_avgpool_3``."""
        return f"{'maxpool' if self.mode == 'max' else 'local_avgpool'}_{self.index}"


@dataclass(frozen=True, kw_only=True)
class AvgPool(Layer):
    """Average over the whole map."""

    kind: ClassVar[str] = "avgpool"


@dataclass(frozen=True, kw_only=True)
class Route(Layer):
    """Concatenation along the channels of part `group_id` of `groups` of every input."""

    kind: ClassVar[str] = "route"

    groups: int
    group_id: int


@dataclass(frozen=True, kw_only=True)
class Shortcut(Layer):
    """Sum of the previous layer and the `from` layers, optionally weighted.

    The output has the shape of the previous layer. Another input with fewer (more) channels takes part with all its
    channels (its first channels) only.
    """

    kind: ClassVar[str] = "shortcut"

    activation: str
    weights_type: str
    weights_normalization: str

    @property
    def params(self) -> tuple[Param, ...]:
        """Weights [n inputs] (per_feature), [n inputs, C] (per_channel), or nothing."""
        if self.weights_type == "none":
            return ()
        n = len(self.inputs)
        return (Param("weight", (n,) if self.weights_type == "per_feature" else (n, self.shape.c)),)


@dataclass(frozen=True, kw_only=True)
class Upsample(Layer):
    """Nearest-neighbour enlargement by `stride`, times `scale`."""

    kind: ClassVar[str] = "upsample"

    stride: int
    scale: float


@dataclass(frozen=True, kw_only=True)
class Reorg(Layer):
    """Moves pixels to channels (or back if `reverse`).

    `mode` is ``darknet`` for ``[reorg]``, whose index map reads the input as if it had shape
    ``[c / s**2, h * s, w * s]``, and ``space_to_depth`` for ``[reorg3d]``.
    """

    kind: ClassVar[str] = "reorg"

    stride: int
    reverse: bool
    mode: str


@dataclass(frozen=True, kw_only=True)
class ScaleChannels(Layer):
    """The `from` layer (second input) times one factor per channel, or per pixel if `scale_wh`."""

    kind: ClassVar[str] = "scale_channels"

    scale_wh: bool
    activation: str


@dataclass(frozen=True, kw_only=True)
class Sam(Layer):
    """Product of the previous layer and the `from` layer, element by element."""

    kind: ClassVar[str] = "sam"

    activation: str


@dataclass(frozen=True, kw_only=True)
class SqueezeExcite(Layer):
    """``x * h_sigmoid(W2 relu(W1 mean(x)))``, the ``[se]`` section of the MobileNetV3 dialect."""

    kind: ClassVar[str] = "se"

    squeezed: int

    @property
    def params(self) -> tuple[Param, ...]:
        """W1 [C/reduction, C] and W2 [C, C/reduction], without biases."""
        return (Param("weight1", (self.squeezed, self.shape.c)), Param("weight2", (self.shape.c, self.squeezed)))

    @property
    def macs(self) -> int:
        """Both matrix products and the scaling."""
        return 2 * self.squeezed * self.shape.c + self.shape.numel


@dataclass(frozen=True, kw_only=True)
class Activation(Layer):
    """Stand-alone activation function."""

    kind: ClassVar[str] = "activation"

    activation: str


@dataclass(frozen=True, kw_only=True)
class Identity(Layer):
    """A section without effect on inference: dropout, empty, cost."""

    kind: ClassVar[str] = "identity"


@dataclass(frozen=True, kw_only=True)
class Softmax(Layer):
    """Softmax over groups of the flattened input, divided by `temperature`."""

    kind: ClassVar[str] = "softmax"

    groups: int
    temperature: float
    spatial: bool


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """How the raw map of a detection head becomes boxes (see `yolo_hw.nn.heads.decode_head`).

    Attributes:
        kind: ``yolo`` (YOLOv3/v4) or ``region`` (YOLOv2).
        classes: Number of classes.
        anchors: (width, height) of this head's anchors, in pixels of the network's input (yolo) or in cells (region).
        scale_x_y: YOLOv4's widening of the box centre's range.
        new_coords: The map is already sigmoided, sizes are ``(2 t)**2``.
        softmax: Class scores are a softmax (region) instead of sigmoids.
    """

    kind: str
    classes: int
    anchors: tuple[tuple[float, float], ...]
    scale_x_y: float = 1.0
    new_coords: bool = False
    softmax: bool = False

    @property
    def channels(self) -> int:
        """Channels of the raw map: anchors * (4 box terms, objectness, classes)."""
        return len(self.anchors) * (5 + self.classes)


@dataclass(frozen=True, kw_only=True)
class DetectionHead(Layer):
    """A ``[yolo]`` or ``[region]`` section; passes its raw input on to the host's decoder."""

    spec: HeadSpec
    training: YoloTraining | RegionTraining
    """What the section says about the loss."""

    @property
    def name(self) -> str:
        """``yolo_16`` or ``region_12``."""
        return f"{self.spec.kind}_{self.index}"

# SPDX-License-Identifier: Apache-2.0
"""The channel graph: which channel of which tensor is the same channel.

Every channel of every feature map has an id. A convolution makes new ids; whatever passes channels on (pooling,
concatenation, slicing, reorganisation) moves ids; whatever joins channels (a sum, a product, a depthwise convolution)
makes ids one by union-find. A `Slot` says which ids lie along a dimension of a parameter, so that after a choice of ids
every tensor of the model knows what to keep. The graph of a model is written by a front end (`darknet_graph`,
`torch_graph`) in terms of the verbs of `GraphBuilder`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Elementwise = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, eq=False)
class Value:
    """A feature map.

    Attributes:
        index: Number of the value in the graph.
        labels: [C] id of each channel; [C * H * W] after flattening.
        height: Rows of a map, 1 after flattening.
        width: Columns of a map.
    """

    index: int
    labels: IntArray
    height: int
    width: int

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Slot:
    """Channels along one dimension of a tensor of the model's state.

    Attributes:
        path: Key of the tensor in the state dict.
        dim: The dimension.
        labels: One id per index of that dimension.
        fill: What an added zero channel holds: 1 for a variance, else 0.
        produces: Whether the tensor's layer makes these channels (weight dim 0, bias, norm) instead of reading them.
    """

    path: str
    dim: int
    labels: IntArray
    fill: float = 0.0
    produces: bool = True


@dataclass(frozen=True)
class NormPaths:
    """State-dict keys of a batch normalisation; None where it has no such tensor."""

    weight: str | None
    bias: str | None
    mean: str | None
    var: str | None

    def present(self) -> tuple[tuple[str, float], ...]:
        """Return (key, fill) of each tensor there is."""
        keys = ((self.weight, 0.0), (self.bias, 0.0), (self.mean, 0.0), (self.var, 1.0))
        return tuple((key, fill) for key, fill in keys if key is not None)


@dataclass(frozen=True)
class Filters:
    """What makes channels: a convolution or a fully connected layer.

    Attributes:
        name: The layer.
        weight: Key of the weight, [K, C / groups, R, S] or [K, C].
        bias: Key of the bias, or None.
        channels: K.
        height: Rows of the output map.
        width: Columns of the output map.
        groups: Of a grouped convolution.
        kernel: (R, S), (1, 1) of a fully connected layer.
        padded: Whether zeros around the map take part.
        kind: ``conv`` or ``linear``.
        fixed_bias: Whether no bias can be added to it, so that a constant input must be zero.
        depthwise: Whether it has a group for each channel, also where that is one.
    """

    name: str
    weight: str
    bias: str | None
    channels: int
    height: int = 1
    width: int = 1
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)
    padded: bool = False
    kind: str = "conv"
    fixed_bias: bool = False
    depthwise: bool = False


@dataclass(frozen=True, eq=False)
class Op:
    """One operation on values.

    Attributes:
        kind: ``filters``, ``norm``, ``elementwise``, ``sum``, ``product``, ``scaled``, ``move``, ``zeros`` or
            ``opaque``.
        layer: The layer it belongs to; several operations may form one layer.
        inputs: Values read.
        output: Value written.
        filters: Of ``filters``.
        norm: Of ``norm``.
        function: Of ``elementwise``: the function on [C] constants, NaN where a channel is alive.
        sources: Of ``move``: for each output channel its position in the concatenated input channels, [C], its
            positions if it mixes several, [C, m], or None if the positions are the same.
        needs_zero: Of ``move``: whether of all constants only zero stays one.
        whole_groups: Of ``filters``: channels leave with their whole convolution group, so `groups` shrinks.
    """

    kind: str
    layer: str
    inputs: tuple[Value, ...]
    output: Value
    filters: Filters | None = None
    norm: NormPaths | None = None
    function: Elementwise | None = None
    sources: IntArray | None = None
    needs_zero: bool = False
    whole_groups: bool = False


@dataclass(frozen=True)
class Follower:
    """Channels whose number is a function of another map's: the squeezed channels of an ``[se]`` section.

    Attributes:
        labels: Ids of the channels that follow.
        leaders: Ids of the channels they follow.
        count: Number of leaders kept -> number of followers kept.
        why: In words, for the table.
    """

    labels: IntArray
    leaders: IntArray
    count: Callable[[int], int]
    why: str


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """What a front end has found.

    Attributes:
        ops: In order of execution.
        slots: Every dimension of every tensor that holds channels.
        layers: Layer -> what it is (``conv``, ``depthwise``, ``linear``, ``norm``), in graph order.
        unit_of: [ids] the unit each id belongs to; ids that were joined have one unit.
        protected: Unit -> why it cannot be pruned.
        followers: Channels whose number follows from others.
    """

    ops: tuple[Op, ...]
    slots: tuple[Slot, ...]
    layers: Mapping[str, str]
    unit_of: IntArray
    protected: Mapping[int, str]
    followers: tuple[Follower, ...] = ()

    @property
    def num_units(self) -> int:
        """Number of units."""
        return int(self.unit_of.max()) + 1 if len(self.unit_of) else 0


class _Ids:
    """Union-find over channel ids; the root of a set is its smallest id."""

    def __init__(self) -> None:
        self.parent = np.empty(0, np.int64)

    def new(self, count: int) -> IntArray:
        """Return `count` new ids."""
        fresh = np.arange(len(self.parent), len(self.parent) + count)
        self.parent = np.concatenate([self.parent, fresh])
        return fresh

    def roots(self, ids: IntArray) -> IntArray:
        """Return the root of each id."""
        found = self.parent[ids]
        while True:
            above = self.parent[found]
            if np.array_equal(above, found):
                return found
            found = above

    def join(self, a: IntArray, b: IntArray) -> None:
        """Make a[i] and b[i] one, for every i."""
        while True:
            roots_a, roots_b = self.roots(a), self.roots(b)
            low, high = np.minimum(roots_a, roots_b), np.maximum(roots_a, roots_b)
            if np.array_equal(low, high):
                return
            np.minimum.at(self.parent, high, low)


@dataclass
class GraphBuilder:
    """Writes a `ChannelGraph`, one operation of the model after the other."""

    ops: list[Op] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    layers: dict[str, str] = field(default_factory=dict)
    followers: list[Follower] = field(default_factory=list)
    _ids: _Ids = field(default_factory=_Ids)
    _values: int = 0
    _protected: list[tuple[IntArray, str]] = field(default_factory=list)

    def value(self, labels: IntArray, height: int, width: int) -> Value:
        """Return a new value of given ids."""
        self._values += 1
        return Value(self._values - 1, labels, height, width)

    def input(self, channels: int, height: int, width: int) -> Value:
        """Add an input of the model; its channels are given."""
        value = self.value(self._ids.new(channels), height, width)
        self.protect(value, "input of the network")
        return value

    def protect(self, value: Value, why: str) -> None:
        """Forbid to prune the channels of a value."""
        self._protected.append((value.labels, why))

    def join(self, a: Value, b: Value) -> None:
        """Make the channels of two values one, position by position; of the longer one the first ones."""
        length = min(a.channels, b.channels)
        self._ids.join(a.labels[:length], b.labels[:length])

    def couple(self, labels: IntArray) -> None:
        """Make the ids of each column of [n, m] one."""
        for row in labels[1:]:
            self._ids.join(labels[0], row)

    def fresh(self, channels: int, height: int, width: int) -> Value:
        """Return a value of new ids."""
        return self.value(self._ids.new(channels), height, width)

    # --- layers with parameters

    def filters(self, x: Value, layer: Filters) -> Value:
        """Add a convolution or fully connected layer; `x` is flattened for the latter.

        Of a grouped convolution either whole groups are pruned, their inputs and outputs being one unit (depthwise
        convolutions, and where there are more groups than channels in one), or the same offset in every group.
        """
        groups, k = layer.groups, layer.channels
        out = self.fresh(k, layer.height, layer.width)
        inside = x.channels // groups
        whole = layer.depthwise or (groups > 1 and groups >= inside)
        if whole:
            blocks = np.concatenate([x.labels.reshape(groups, inside), out.labels.reshape(groups, k // groups)], 1)
            self.couple(np.ascontiguousarray(blocks.T))
        elif groups > 1:
            self.couple(x.labels.reshape(groups, inside))
            self.couple(out.labels.reshape(groups, k // groups))
        if not whole:
            self.slots.append(Slot(layer.weight, 1, x.labels[:inside], produces=False))
        self.slots.append(Slot(layer.weight, 0, out.labels))
        if layer.bias is not None:
            self.slots.append(Slot(layer.bias, 0, out.labels))
        kind = "depthwise" if whole and inside == 1 else layer.kind
        self.layers.setdefault(layer.name, kind)
        self.ops.append(Op("filters", layer.name, (x,), out, filters=layer, whole_groups=whole))
        return out

    def norm(self, x: Value, layer: str, paths: NormPaths) -> Value:
        """Add a normalisation or another affine map of each channel; channels keep their ids."""
        out = self.value(x.labels, x.height, x.width)
        self.slots.extend(Slot(key, 0, x.labels, fill) for key, fill in paths.present())
        self.layers.setdefault(layer, "norm")
        self.ops.append(Op("norm", layer, (x,), out, norm=paths))
        return out

    def parameter(self, x: Value, path: str, dim: int) -> None:
        """Add a parameter with one index per channel of `x` along `dim` that belongs to an elementwise operation."""
        self.slots.append(Slot(path, dim, x.labels))

    # --- what passes channels on

    def elementwise(self, x: Value, layer: str, function: Elementwise) -> Value:
        """Add a function of each element; `function` maps constants [C]."""
        out = self.value(x.labels, x.height, x.width)
        self.ops.append(Op("elementwise", layer, (x,), out, function=function))
        return out

    def scaled(self, x: Value, layer: str) -> Value:
        """Add a product with factors that are not followed: of all constants only zero stays a known constant."""
        out = self.value(x.labels, x.height, x.width)
        self.ops.append(Op("scaled", layer, (x,), out))
        return out

    def moved(
        self,
        inputs: Sequence[Value],
        layer: str,
        sources: IntArray | None,
        size: tuple[int, int],
        needs_zero: bool = False,
    ) -> Value:
        """Add an operation whose output channel i depends on channel ``sources[i]`` of the concatenated inputs alone.

        It must keep a map of one constant a map of the same constant: pooling, nearest enlargement, concatenation,
        slicing, flattening, moving pixels to channels.

        Args:
            inputs: Values read.
            layer: Its layer.
            sources: Positions, [C] or, where pixels of several channels of one unit are mixed, [C, m]; None for all in
                order.
            size: (height, width) of the output.
            needs_zero: Whether a constant other than zero is not kept (padding with zeros).
        """
        labels = np.concatenate([value.labels for value in inputs])
        if sources is not None:
            labels = labels[sources if sources.ndim == 1 else sources[:, 0]]
        out = self.value(labels, *size)
        self.ops.append(Op("move", layer, tuple(inputs), out, sources=sources, needs_zero=needs_zero))
        return out

    def sum(self, inputs: Sequence[Value], layer: str) -> Value:
        """Add a sum; the result has the channels of the first input, others take part with their first ones."""
        for other in inputs[1:]:
            self.join(inputs[0], other)
        out = self.value(inputs[0].labels, inputs[0].height, inputs[0].width)
        self.ops.append(Op("sum", layer, tuple(inputs), out))
        return out

    def product(self, inputs: Sequence[Value], layer: str) -> Value:
        """Add a product of maps with equal channels, one of which may be gates of one pixel."""
        for other in inputs[1:]:
            self.join(inputs[0], other)
        shape = max(inputs, key=lambda value: value.height * value.width)
        out = self.value(inputs[0].labels, shape.height, shape.width)
        self.ops.append(Op("product", layer, tuple(inputs), out))
        return out

    def zeros(self, channels: int, layer: str, size: tuple[int, int]) -> Value:
        """Add channels of zeros, as beside a map that is widened by padding its channels."""
        out = self.fresh(channels, *size)
        self.ops.append(Op("zeros", layer, (), out))
        return out

    def opaque(self, inputs: Sequence[Value], layer: str, channels: int, size: tuple[int, int], why: str) -> Value:
        """Add an operation nothing is known of: the channels it reads and writes are protected."""
        for value in inputs:
            self.protect(value, why)
        out = self.fresh(channels, *size)
        self.protect(out, why)
        self.ops.append(Op("opaque", layer, tuple(inputs), out))
        return out

    def output(self, x: Value, why: str = "output of the network") -> None:
        """State that a value leaves the model."""
        self.protect(x, why)

    def follow(self, follower: Follower) -> None:
        """State that a number of channels follows from another."""
        self.followers.append(follower)

    def build(self) -> ChannelGraph:
        """Return the finished graph."""
        roots = self._ids.roots(np.arange(len(self._ids.parent)))
        _, unit_of = np.unique(roots, return_inverse=True)
        unit_of = unit_of.astype(np.int64)
        protected: dict[int, str] = {}
        for labels, why in self._protected:
            for unit in unit_of[labels].tolist():
                protected.setdefault(unit, why)
        return ChannelGraph(
            tuple(self.ops), tuple(self.slots), dict(self.layers), unit_of, protected, tuple(self.followers)
        )

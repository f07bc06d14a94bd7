# SPDX-License-Identifier: Apache-2.0
"""Compute cycles of convolutions from their shapes alone, before there are weights, formats or a memory plan.

What `plan_cycles` counts for convolutions and fully connected layers, by the same functions. Pools, sums and copies are
left out: they take few cycles, and a choice of filters changes them little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hls_export.config import AcceleratorConfig
from hls_export.pack.weights import input_range
from hls_export.plan.commands import CommandOp, conv_op
from hls_export.plan.tiling import Tile, choose_tile
from yolo_hw.darknet.layers import Connected, Convolutional, Shape
from yolo_hw.darknet.network import Network
from yolo_hw.errors import ExportError, nearest
from yolo_hw.geometry import Window

MIN_PIXELS = 16
"""The dense and the pooling pipeline run at least this many steps per kernel position (yhw_types.h)."""

POINT = Window((1, 1))


class ConvShape(Protocol):
    """A convolution or fully connected layer; of the latter each input number is a channel."""

    @property
    def name(self) -> str:
        """The layer."""

    @property
    def out_channels(self) -> int:
        """K."""

    @property
    def in_channels(self) -> int:
        """C."""

    @property
    def groups(self) -> int:
        """Of the convolution."""

    @property
    def kernel(self) -> tuple[int, int]:
        """(R, S)."""

    @property
    def height(self) -> int:
        """Rows of the output."""

    @property
    def width(self) -> int:
        """Columns of the output."""


@dataclass(frozen=True)
class LayerCycles:
    """Cycles of one layer.

    Attributes:
        name: The layer.
        cycles: Compute cycles.
        macs: Multiply-accumulates.
        utilisation: Share of the tile's TM * TN multipliers that do real work.
    """

    name: str
    cycles: int
    macs: int
    utilisation: float


def conv_windows(network: Network) -> dict[str, Window]:
    """Return layer -> window of every convolution and fully connected layer; pruning changes none of them."""
    windows = {}
    for layer in network.layers:
        if isinstance(layer, Convolutional):
            stride, padding, dilation = (layer.stride_y, layer.stride_x), layer.padding, layer.dilation
            windows[layer.name] = Window((layer.size,) * 2, stride, (padding, padding), (dilation, dilation))
        elif isinstance(layer, Connected):
            windows[layer.name] = Window((layer.in_shapes[0].h, layer.in_shapes[0].w))
    return windows


def estimate_layers(
    shapes: Sequence[ConvShape], windows: Mapping[str, Window], config: AcceleratorConfig
) -> list[LayerCycles]:
    """Return the cycles of every layer.

    Args:
        shapes: The layers.
        windows: Layer -> window, see `conv_windows`; a layer of a single position needs none.
        config: The hardware.

    Raises:
        ExportError: A window is missing, or not one output pixel of a layer fits the buffers.
    """
    return _Estimator(config, windows).layers(shapes)


def estimate_cycles(config: AcceleratorConfig, windows: Mapping[str, Window]) -> Callable[[Sequence[ConvShape]], float]:
    """Return the function shapes of all layers -> cycles of one image, as a budget of cycles takes it.

    Args:
        config: The hardware.
        windows: Layer -> window, see `conv_windows`.
    """
    estimator = _Estimator(config, windows)
    return lambda shapes: float(sum(layer.cycles for layer in estimator.layers(shapes)))


class _Estimator:
    """Chooses the tile of each window and map once: channels do not matter for it."""

    def __init__(self, config: AcceleratorConfig, windows: Mapping[str, Window]) -> None:
        self.config = config
        self.windows = windows
        self._tiles: dict[tuple[Window, int, int], Tile] = {}

    def layers(self, shapes: Sequence[ConvShape]) -> list[LayerCycles]:
        return [self._layer(shape) for shape in shapes]

    def _layer(self, shape: ConvShape) -> LayerCycles:
        window = self.windows.get(shape.name)
        if window is None:
            if (shape.height, shape.width, *shape.kernel) != (1, 1, 1, 1):
                raise ExportError(
                    f"cycles of {shape.name}: its window must be given{nearest(shape.name, self.windows)}"
                )
            window = POINT
        out = Shape(shape.out_channels, shape.height, shape.width)
        inputs = shape.in_channels // shape.groups * shape.kernel[0] * shape.kernel[1] // window.taps
        conv = ConvWork(window, shape.groups, inputs, out)
        key = (window, shape.height, shape.width)
        if key not in self._tiles:
            self._tiles[key] = choose_tile(shape.name, self.config, window, out)
        depthwise = inputs == 1 and shape.groups == shape.out_channels
        op = conv_op(window, depthwise=depthwise)
        cycles = conv_cycles(op, conv, self._tiles[key], self.config)
        macs = out.numel * inputs * window.taps
        return LayerCycles(shape.name, cycles, macs, macs / (cycles * self.config.tm * self.config.tn))


@dataclass(frozen=True)
class ConvWork:
    """What a convolution has to compute.

    Attributes:
        window: Geometry.
        groups: Of the convolution.
        inputs: Input channels of a group.
        out: Shape of the output.
    """

    window: Window
    groups: int
    inputs: int
    out: Shape


def conv_cycles(op: CommandOp, conv: ConvWork, tile: Tile, config: AcceleratorConfig) -> int:
    """Return the compute cycles of a convolution in the dense or the depthwise mode."""
    window, k = conv.window, conv.out.c
    if op is CommandOp.DWCONV:
        chunks = -(-window.taps // config.tn)
        return -(-k // config.channels) * sum(
            h * (window.span(1, w) + w * (chunks - 1)) for h, w in spatial_tiles(tile, conv.out)
        )
    passes = 0
    for start in range(0, k, config.tm):
        low, high = input_range(start, min(start + config.tm, k), k // conv.groups, conv.inputs)
        passes += -(-high // config.tn) - low // config.tn
    return passes * window.taps * sum(max(h * w, MIN_PIXELS) for h, w in spatial_tiles(tile, conv.out))


def spatial_tiles(tile: Tile, out: Shape) -> list[tuple[int, int]]:
    """Return (rows, columns) of every piece of a map that is computed in tiles."""
    heights = [min(tile.h, out.h - y) for y in range(0, out.h, tile.h)]
    widths = [min(tile.w, out.w - x) for x in range(0, out.w, tile.w)]
    return [(h, w) for h in heights for w in widths]

# SPDX-License-Identifier: Apache-2.0
"""Nodes that bring elements into an order: the way back from a `Value` to a tensor of the folded graph.

The planes (channels) of the wanted tensor are looked at one by one. Each must be a plane of a source: as it is, moved,
with every s-th pixel, or zero. Codes are handed on unchanged wherever the folded graph has a moving node for it (slice,
concat, reorg, a pool of one pixel, upsample); the rest are convolutions with one weight of 1 per channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import QuantError
from yolo_hw.geometry import Window
from yolo_hw.quant import folded as F
from yolo_hw.quant.traced.builder import Builder
from yolo_hw.quant.traced.values import Source, Value, numbers, source_of, starts

MAX_SLICES = 8
"""More runs of channels than this are a convolution, not slices and a concat."""

MAX_BLOCK = 4
"""Largest square of pixels moved to channels and back; larger ones would take small maps apart pixel by pixel."""

MAX_TAPS = 16
"""Largest window of a convolution that only moves pixels."""


class Plane(NamedTuple):
    """``out[i, j] = source[channel, i * stride + dy, j * stride + dx]``, zero outside of the source."""

    source: int
    channel: int
    stride: int
    dy: int
    dx: int


@dataclass(frozen=True)
class Picked:
    """A channel of a tensor; None in its place stands for a channel of zeros."""

    tensor: Source
    channel: int


def map_shape(value: Value) -> Shape:
    """Return the shape of a value as a map: [N, C], [N, C, L], [N, C, H, W] have maps of 1, L x 1, H x W pixels."""
    if not 1 <= len(value.shape) <= 3:
        raise QuantError(f"{value.name}: must be [N, C], [N, C, L] or [N, C, H, W], got {['N', *value.shape]}")
    return Shape(*value.shape, *(1,) * (3 - len(value.shape)))


def gathered(builder: Builder, value: Value) -> Source:
    """Return a folded tensor of shape `map_shape` with the elements of a value, made by as few nodes as possible.

    Raises:
        QuantError: The elements are in an order that no nodes produce.
    """
    shape = map_shape(value)
    if value.index is None:
        return value.source
    return _Gatherer(builder, value.sources, value.name).gather(value.index.reshape(shape))


class _Gatherer:
    """Finds the nodes for one value."""

    def __init__(self, builder: Builder, sources: tuple[Source, ...], name: str) -> None:
        self.builder, self.sources, self.name = builder, sources, name

    def gather(self, index: Tensor) -> Source:
        """Return a tensor with the elements `index`, [C, H, W]."""
        planes = [self._plane(plane) for plane in index]
        if all(plane is not None for plane in planes):
            return self._planes([plane for plane in planes if plane is not None], Shape(*index.shape))
        segments = self._segments(index)
        if len(segments) > 1:
            parts = [self.builder.readable(self.gather(index[start:stop])) for start, stop in segments]
            return self._joined(parts, Shape(*index.shape))
        factor = _repeats(index)
        if factor > 1:
            coarse = self.builder.readable(self.gather(index[:, ::factor, ::factor]))
            shape = Shape(*index.shape)
            name = self.builder.unique(f"{self.name}.up")
            return self.builder.emit(F.FoldedUpsample(name=name, inputs=(coarse.name,), shape=shape, stride=factor))
        return self._from_phases(index)

    def _segments(self, index: Tensor) -> list[tuple[int, int]]:
        """Return runs of channels [start, stop) that come from one source each."""
        origin = source_of(index.flatten(1).amax(1), self.sources).tolist()
        cuts = [k for k in range(1, len(origin)) if origin[k] != origin[k - 1]]
        return list(zip([0, *cuts], [*cuts, len(origin)], strict=True))

    def _from_phases(self, index: Tensor) -> Source:
        """Every s-th pixel from another channel: pixels of depth."""
        c, h, w = index.shape
        for s in (s for s in range(2, MAX_BLOCK + 1) if math.gcd(h, w) % s == 0):
            phases = torch.cat([index[:, dy::s, dx::s] for dy in range(s) for dx in range(s)])
            if all(self._plane(plane) is not None for plane in phases):
                deep = self.builder.readable(self.gather(phases))
                name = self.builder.unique(f"{self.name}.pixels")
                return self.builder.emit(
                    F.FoldedReorg(
                        name=name, inputs=(deep.name,), shape=Shape(c, h, w), stride=s, reverse=True,
                        mode="space_to_depth",
                    )
                )  # fmt: skip
        raise QuantError(
            f"{self.name}: no nodes bring elements into this order; whole channels can be picked, repeated and "
            "permuted, and pixels shifted, thinned, repeated and moved to channels and back"
        )

    def _plane(self, index: Tensor) -> Plane | None:
        """Return which part of a source a plane [H, W] is; None if it is no such part."""
        found = (index > 0).nonzero()
        if not len(found):
            return Plane(-1, 0, 1, 0, 0)
        i, j = found[0].tolist()
        k = int(source_of(index[i, j], self.sources))
        source, start = self.sources[k], starts(self.sources)[k]
        _, h, w = source.shape
        channel, pixel = divmod(int(index[i, j]) - 1 - start, h * w)
        y, x = divmod(pixel, w)
        stride = self._stride(index, found, source.shape)
        plane = Plane(k, channel, stride, y - i * stride, x - j * stride)
        rows = torch.arange(index.shape[0]).reshape(-1, 1) * stride + plane.dy
        columns = torch.arange(index.shape[1]) * stride + plane.dx
        inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
        wanted = torch.where(inside, start + (channel * h + rows) * w + columns + 1, 0)
        return plane if torch.equal(wanted, index) else None

    def _stride(self, index: Tensor, found: Tensor, shape: Shape) -> int:
        """Return the distance of neighbouring pixels in the source, from a row or a column that has two."""
        i, j = found[0].tolist()
        if j + 1 < index.shape[1] and index[i, j + 1] > 0:
            return max(int(index[i, j + 1] - index[i, j]), 1)
        if i + 1 < index.shape[0] and index[i + 1, j] > 0:
            return max(int(index[i + 1, j] - index[i, j]) // shape.w, 1)
        return max(shape.h // index.shape[0], 1)

    def _planes(self, planes: list[Plane], shape: Shape) -> Source:
        picked: list[Picked | None] = [None] * len(planes)
        for k, source in enumerate(self.sources):
            own = {i: plane for i, plane in enumerate(planes) if plane.source == k}
            if not own:
                continue
            as_it_is = source.shape[1:] == shape[1:] and all(plane[2:] == (1, 0, 0) for plane in own.values())
            in_order = len(own) == len(planes) == source.shape.c and all(own[i].channel == i for i in own)
            if as_it_is and in_order:
                return source
            if not as_it_is or source == self.builder.image:
                found = self._moved(source, own, shape)
            else:
                found = {i: Picked(source, plane.channel) for i, plane in own.items()}
            for i, channel in found.items():
                picked[i] = channel
        return self._channels(picked, shape)

    def _moved(self, source: Source, own: dict[int, Plane], shape: Shape) -> dict[int, Picked]:
        """Shift, thin or reorganise the pixels of a source; return where each plane is afterwards."""
        strides = {plane.stride for plane in own.values()}
        (c, h, w), s = source.shape, max(strides)
        name = self.builder.unique(f"{self.name}.pixels")
        if len(strides) > 1:
            raise QuantError(f"{self.name}: pixels are taken in several distances, {sorted(strides)}, of {source.name}")
        within = all(0 <= plane.dy < s and 0 <= plane.dx < s for plane in own.values())
        if source == self.builder.image or not within:
            return self._shifted(source, own, shape)
        inside = (shape.h - 1) * s < h and (shape.w - 1) * s < w
        if inside and all(plane[3:] == (0, 0) for plane in own.values()):
            thin = F.FoldedMaxPool(
                name=name, inputs=(source.name,), shape=Shape(c, *shape[1:]), window=Window((1, 1), (s, s))
            )
            tensor = self.builder.emit(thin)
            return {i: Picked(tensor, plane.channel) for i, plane in own.items()}
        if s > MAX_BLOCK or h % s or w % s or shape[1:] != (h // s, w // s):
            return self._shifted(source, own, shape)
        deep = F.FoldedReorg(
            name=name, inputs=(source.name,), shape=Shape(c * s * s, *shape[1:]), stride=s, reverse=False,
            mode="space_to_depth",
        )  # fmt: skip
        tensor = self.builder.emit(deep)
        return {i: Picked(tensor, (plane.dy * s + plane.dx) * c + plane.channel) for i, plane in own.items()}

    def _shifted(self, source: Source, own: dict[int, Plane], shape: Shape) -> dict[int, Picked]:
        """A convolution that has a weight of 1 per output channel."""
        (c, h, w), stride = source.shape, next(iter(own.values())).stride
        size, pad = [], []
        for inputs, outputs, moves in (
            (h, shape.h, [plane.dy for plane in own.values()]),
            (w, shape.w, [plane.dx for plane in own.values()]),
        ):
            # The last window must begin inside the map, and the padding be smaller than the window.
            before = max(0, -min(moves), (outputs - 1) * stride - inputs + 1)
            size.append(max(max(moves) + before, before) + 1)
            pad.append(before)
        if max(size) > MAX_TAPS:
            raise QuantError(
                f"{self.name}: pixels of {source.name} are moved by {max(size) - 1}, at most {MAX_TAPS - 1}"
            )
        alone = list(own) == list(range(c)) and all(plane.channel == i for i, plane in own.items())
        weight = torch.zeros(len(own), 1 if alone else c, *size)
        for k, plane in enumerate(own.values()):
            weight[k, 0 if alone else plane.channel, plane.dy + pad[0], plane.dx + pad[1]] = 1
        window = Window((size[0], size[1]), (stride, stride), (pad[0], pad[1]))
        made = self.builder.fixed_conv(f"{self.name}.pixels", source, weight, Shape(len(own), *shape[1:]), window)
        return {i: Picked(made, k) for k, i in enumerate(own)}

    def _channels(self, picked: list[Picked | None], shape: Shape) -> Source:
        """Pick channels by slices and a concat; where those are many, or channels are zero, by a convolution."""
        runs = _runs(picked)
        if any(channel is None for channel in picked) or len(runs) > MAX_SLICES:
            return self._permuted(picked, shape)
        return self._joined([self._slice(*run) for run in runs], shape)

    def _slice(self, tensor: Source, start: int, stop: int) -> Source:
        if (start, stop) == (0, tensor.shape.c):
            return tensor
        name = self.builder.unique(f"{self.name}.part")
        shape = Shape(stop - start, *tensor.shape[1:])
        return self.builder.emit(F.FoldedSlice(name=name, inputs=(tensor.name,), shape=shape, start=start, stop=stop))

    def _joined(self, parts: list[Source], shape: Shape) -> Source:
        if len(parts) == 1:
            return parts[0]
        name = self.builder.unique(self.name)
        return self.builder.emit(F.FoldedConcat(name=name, inputs=tuple(part.name for part in parts), shape=shape))

    def _permuted(self, picked: list[Picked | None], shape: Shape) -> Source:
        tensors = list(dict.fromkeys(channel.tensor for channel in picked if channel is not None))
        if not tensors:
            raise QuantError(f"{self.name}: is zero whatever the image is")
        first = dict(zip(tensors, _channel_starts(tensors), strict=True))
        joined = self._joined(tensors, Shape(sum(tensor.shape.c for tensor in tensors), *shape[1:]))
        weight = torch.zeros(shape.c, joined.shape.c, 1, 1)
        for k, channel in enumerate(picked):
            if channel is not None:
                weight[k, first[channel.tensor] + channel.channel] = 1
        return self.builder.fixed_conv(self.name, joined, weight, shape)


def _channel_starts(tensors: list[Source]) -> list[int]:
    found, total = [], 0
    for tensor in tensors:
        found.append(total)
        total += tensor.shape.c
    return found


def _runs(picked: list[Picked | None]) -> list[tuple[Source, int, int]]:
    """Return the (tensor, start, stop) of neighbouring channels."""
    runs: list[tuple[Source, int, int]] = []
    for channel in picked:
        if channel is None:
            continue
        if runs and runs[-1][0] == channel.tensor and runs[-1][2] == channel.channel:
            runs[-1] = (channel.tensor, runs[-1][1], channel.channel + 1)
        else:
            runs.append((channel.tensor, channel.channel, channel.channel + 1))
    return runs


def _repeats(index: Tensor) -> int:
    """Return how often every pixel of [C, H, W] is repeated in both directions, the largest such number."""
    size = math.gcd(*index.shape[1:])
    for factor in range(size, 1, -1):
        if size % factor == 0:
            coarse = index[:, ::factor, ::factor]
            if torch.equal(coarse.repeat_interleave(factor, 1).repeat_interleave(factor, 2), index):
                return factor
    return 1


def without_padding(value: Value) -> tuple[Value, tuple[int, int]]:
    """Return a map [N, C, H, W] without the rows and columns of zeros around it, and how many were above and left."""
    if value.index is None or len(value.shape) != 3:
        return value, (0, 0)
    inside = (value.index > 0).any(0)
    rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
    if not len(rows) or inside.all():
        return value, (0, 0)
    top, left = int(rows[0]), int(columns[0])
    index = value.index[:, top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    plain = len(value.sources) == 1 and tuple(value.source.shape) == tuple(index.shape)
    as_it_is = plain and torch.equal(index, numbers(index.shape))
    kept = None if as_it_is else index.contiguous()
    return Value(value.sources, tuple(index.shape), value.name, kept, value.sole), (top, left)

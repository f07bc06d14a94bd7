# SPDX-License-Identifier: Apache-2.0
"""Recipes of random integer graphs: each appends one kind of node and whatever it needs before it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from support.graph_builder import (
    GraphBuilder,
    append_computed,
    append_conv,
    random_activation,
    random_window,
    same_size,
)

from yolo_hw.geometry import Window
from yolo_hw.intgraph import nodes as N

MAX_PIXELS = 800


def _add(b: GraphBuilder, source: str) -> str:
    info = b.tensors[source]
    others = [source]
    for _ in range(b.number(0, 3)):
        near = b.pick(lambda other: other.shape == info.shape and abs(other.fmt.frac - info.fmt.frac) <= 8)
        if b.tensors[near].shape != info.shape or b.chance(0.3):
            frac = int(np.clip(info.fmt.frac + b.number(-4, 4), -30, 30))
            near = append_conv(b, source, channels=info.shape.c, window=same_size(info.shape), out=b.fmt(frac))
        others.append(near)
    b.rng.shuffle(others)
    return append_computed(b, N.Add, tuple(others))


def _scale_channels(b: GraphBuilder, source: str) -> str:
    """Squeeze and excite: average, two convolutions on a single pixel, product."""
    shape = b.tensors[source].shape
    mean = _avgpool(b, source)
    squeezed = append_conv(b, mean, channels=b.number(1, 4), window=(Window((1, 1)), (1, 1)))
    factors = append_conv(b, squeezed, channels=shape.c, window=(Window((1, 1)), (1, 1)))
    return append_computed(b, N.Mul, (source, factors))


def _scale_pixels(b: GraphBuilder, source: str) -> str:
    factors = append_conv(b, source, channels=1, window=same_size(b.tensors[source].shape))
    return append_computed(b, N.Mul, (source, factors))


def _sam(b: GraphBuilder, source: str) -> str:
    shape = b.tensors[source].shape
    other = append_conv(b, source, channels=shape.c, window=same_size(shape)) if b.chance(0.7) else source
    return append_computed(b, N.Mul, (source, other))


def _avgpool(b: GraphBuilder, source: str) -> str:
    info = b.tensors[source]
    mul, mul_shift = N.AvgPool.reciprocal(info.shape.h * info.shape.w)
    node = N.AvgPool(name=b.name("avgpool"), inputs=(source,), mul=mul, mul_shift=mul_shift)
    return b.emit(node, (info.shape.c, 1, 1), b.fmt(info.fmt.frac + b.number(-1, 2)))


def _maxpool(b: GraphBuilder, source: str) -> str:
    info = b.tensors[source]
    window, (h, w) = random_window(b, info.shape)
    window = Window(window.size, window.stride, tuple(min(window.pad[i], window.size[i] - 1) for i in (0, 1)))
    h, w = (min(n, (info.shape[1 + i] - 1 + window.pad[i]) // window.stride[i] + 1) for i, n in ((0, h), (1, w)))
    node = N.MaxPool(name=b.name("maxpool"), inputs=(source,), window=window)
    return b.emit(node, (info.shape.c, h, w), info.fmt)


def _spp(b: GraphBuilder, source: str) -> str:
    """Spatial pyramid: pools of several sizes beside their input."""
    info = b.tensors[source]
    parts = [source]
    for side in (5, 9):
        window = Window((side, side), (1, 1), (side // 2, side // 2))
        parts.append(b.emit(N.MaxPool(name=b.name("maxpool"), inputs=(source,), window=window), info.shape, info.fmt))
    shape = (3 * info.shape.c, info.shape.h, info.shape.w)
    return b.emit(N.Concat(name=b.name("concat"), inputs=tuple(parts)), shape, info.fmt)


def _concat(b: GraphBuilder, source: str) -> str:
    info = b.tensors[source]
    parts = [source]
    for _ in range(b.number(0, 2)):
        near = b.pick(lambda other: other.shape[1:] == info.shape[1:] and other.fmt == info.fmt)
        other = b.tensors[near]
        if other.shape[1:] != info.shape[1:] or other.fmt != info.fmt or b.chance(0.5):
            channels = int(b.rng.choice([4, 8, 16, b.number(1, b.max_channels)]))
            near = append_conv(b, source, channels=channels, window=same_size(info.shape), out=info.fmt)
        parts.append(near)
    shape = (sum(b.tensors[name].shape.c for name in parts), info.shape.h, info.shape.w)
    return b.emit(N.Concat(name=b.name("concat"), inputs=tuple(parts)), shape, info.fmt)


def _slice(b: GraphBuilder, source: str) -> str:
    info = b.tensors[source]
    start = min(int(b.rng.choice([0, 4, 8, 16, b.number(0, info.shape.c - 1)])), info.shape.c - 1)
    stop = b.number(start + 1, info.shape.c)
    node = N.Slice(name=b.name("slice"), inputs=(source,), start=start, stop=stop)
    return b.emit(node, (stop - start, info.shape.h, info.shape.w), info.fmt)


def _upsample(b: GraphBuilder, source: str) -> str:
    stride = b.number(1, 3)
    info = b.tensors[source]
    if info.shape.h * info.shape.w * stride**2 > MAX_PIXELS:
        window = Window((3, 3), (2, 2), (1, 1))
        source = append_conv(b, source, window=(window, ((info.shape.h + 1) // 2, (info.shape.w + 1) // 2)))
        info = b.tensors[source]
    node = N.Upsample(name=b.name("upsample"), inputs=(source,), stride=stride)
    return b.emit(node, (info.shape.c, info.shape.h * stride, info.shape.w * stride), info.fmt)


def _reorg(b: GraphBuilder, source: str, mode: str, reverse: bool) -> str:
    """Reorganise a convolution's output whose channels and size divide as the mode wants."""
    s = b.number(2, 3) if b.chance(0.3) else 2
    shape = b.tensors[source].shape
    if not reverse and (shape.h < s or shape.w < s):
        source = b.emit(
            N.Upsample(name=b.name("upsample"), inputs=(source,), stride=s),
            (shape.c, shape.h * s, shape.w * s),
            b.tensors[source].fmt,
        )
        shape = b.tensors[source].shape
    h, w = (shape.h, shape.w) if reverse else (shape.h // s * s, shape.w // s * s)
    if reverse and h * w * s * s > MAX_PIXELS:
        h, w = max(h // s, 1), max(w // s, 1)
    channels = b.number(1, 4) * (s * s if reverse or mode == "darknet" else 1)
    source = append_conv(b, source, channels=channels, window=(Window((1, 1)), (h, w)))
    out = (channels // s**2, h * s, w * s) if reverse else (channels * s**2, h // s, w // s)
    node = N.Reorg(name=b.name("reorg"), inputs=(source,), stride=s, reverse=reverse, mode=mode)
    return b.emit(node, out, b.tensors[source].fmt)


RECIPES: tuple[Callable[[GraphBuilder, str], str], ...] = (
    append_conv,
    lambda b, source: append_conv(b, source, kind="depthwise"),
    lambda b, source: append_conv(b, source, kind="grouped"),
    *(
        lambda b, source, kind=kind: append_conv(b, source, act=random_activation(b, fmt := b.fmt(), kind), out=fmt)
        for kind in ("linear", "relu", "relu6", "leaky", "table")
    ),
    _add,
    _add,
    _scale_channels,
    _scale_pixels,
    _sam,
    _avgpool,
    _maxpool,
    _maxpool,
    _spp,
    _concat,
    _concat,
    _slice,
    _slice,
    _upsample,
    *(
        lambda b, source, mode=mode, reverse=reverse: _reorg(b, source, mode, reverse)
        for mode in ("darknet", "space_to_depth")
        for reverse in (False, True)
    ),
)
"""One step each: append nodes that read the given tensor."""

# SPDX-License-Identifier: Apache-2.0
"""The channel graph of a darknet network, from its typed layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from yolo_hw.darknet import layers as L
from yolo_hw.darknet.network import Network
from yolo_hw.nn.activations import activate
from yolo_hw.prune.channels import (
    ChannelGraph,
    Elementwise,
    Filters,
    FloatArray,
    Follower,
    GraphBuilder,
    IntArray,
    NormPaths,
    Value,
)


def darknet_channels(network: Network) -> ChannelGraph:
    """Return the channel graph of a network; the paths of its slots are those of a `Darknet`'s state dict.

    Args:
        network: The typed layers.

    Returns:
        The graph. Heads, other outputs and the input are protected; the squeezed channels of ``[se]`` follow their map.
    """
    builder = GraphBuilder()
    values = {-1: builder.input(*network.input)}
    for layer in network.layers:
        values[layer.index] = _ADD[type(layer)](builder, layer, [values[i] for i in layer.inputs])
    for layer in network.outputs:
        kind = "detection head" if isinstance(layer, L.DetectionHead) else "output of the network"
        builder.output(values[layer.index], f"{kind} {layer.name}")
    return builder.build()


def _path(layer: L.Layer, rest: str) -> str:
    return f"blocks.{layer.name}.{rest}"


def _norm_paths(layer: L.Layer) -> NormPaths:
    keys = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    return NormPaths(*(_path(layer, key) for key in keys))


def activation_function(name: str) -> Elementwise:
    """Return an activation on numpy constants, computed by the same code as the network's."""

    def function(x: FloatArray) -> FloatArray:
        return np.asarray(activate(name, torch.from_numpy(x)).numpy(), np.float64)

    return function


def _activated(builder: GraphBuilder, layer: L.Layer, x: Value, activation: str) -> Value:
    return x if activation == "linear" else builder.elementwise(x, layer.name, activation_function(activation))


def _same(x: Value, layer: L.Layer) -> tuple[int, int]:
    return layer.shape.h, layer.shape.w


def _convolutional(builder: GraphBuilder, layer: L.Convolutional, inputs: list[Value]) -> Value:
    filters = Filters(
        name=layer.name,
        weight=_path(layer, "conv.weight"),
        bias=None if layer.batch_normalize else _path(layer, "conv.bias"),
        channels=layer.shape.c,
        height=layer.shape.h,
        width=layer.shape.w,
        groups=layer.groups,
        kernel=(layer.size, layer.size),
        padded=layer.padding > 0 and layer.size > 1,
        depthwise=layer.depthwise,
    )
    y = builder.filters(inputs[0], filters)
    if layer.batch_normalize:
        y = builder.norm(y, layer.name, _norm_paths(layer))
    return _activated(builder, layer, y, layer.activation)


def _connected(builder: GraphBuilder, layer: L.Connected, inputs: list[Value]) -> Value:
    pixels = layer.in_shapes[0].h * layer.in_shapes[0].w
    sources = np.repeat(np.arange(inputs[0].channels), pixels)
    flat = builder.moved(inputs, layer.name, sources, (1, 1))
    filters = Filters(
        name=layer.name,
        weight=_path(layer, "linear.weight"),
        bias=None if layer.batch_normalize else _path(layer, "linear.bias"),
        channels=layer.shape.c,
        kind="linear",
    )
    y = builder.filters(flat, filters)
    if layer.batch_normalize:
        y = builder.norm(y, layer.name, _norm_paths(layer))
    return _activated(builder, layer, y, layer.activation)


def _batch_norm(builder: GraphBuilder, layer: L.BatchNorm, inputs: list[Value]) -> Value:
    return builder.norm(inputs[0], layer.name, _norm_paths(layer))


def _passed(builder: GraphBuilder, layer: L.Layer, inputs: list[Value]) -> Value:
    """Pooling (positions outside the map take no part) and layers without effect."""
    return builder.moved(inputs, layer.name, None, _same(inputs[0], layer))


def _route(builder: GraphBuilder, layer: L.Route, inputs: list[Value]) -> Value:
    """A cfg can name one of `groups` equal parts only, so the same offsets of all parts are pruned together."""
    starts = np.cumsum([0, *(x.channels for x in inputs)])
    sources = []
    for x, start in zip(inputs, starts[:-1], strict=True):
        part = x.channels // layer.groups
        if layer.groups > 1:
            builder.couple(x.labels.reshape(layer.groups, part))
        sources.append(start + layer.group_id * part + np.arange(part))
    return builder.moved(inputs, layer.name, np.concatenate(sources), _same(inputs[0], layer))


def _shortcut(builder: GraphBuilder, layer: L.Shortcut, inputs: list[Value]) -> Value:
    if layer.weights_type == "none":
        y = builder.sum(inputs, layer.name)
    else:
        scaled = [builder.scaled(x, layer.name) for x in inputs]
        y = builder.sum(scaled, layer.name)
        if layer.weights_type == "per_channel":
            builder.parameter(y, _path(layer, "weight"), 1)
    return _activated(builder, layer, y, layer.activation)


def _upsample(builder: GraphBuilder, layer: L.Upsample, inputs: list[Value]) -> Value:
    y = builder.moved(inputs, layer.name, None, _same(inputs[0], layer))
    return y if layer.scale == 1 else builder.elementwise(y, layer.name, partial(np.multiply, layer.scale))


def _reorg(builder: GraphBuilder, layer: L.Reorg, inputs: list[Value]) -> Value:
    """See `yolo_hw.nn.blocks.reorg` for the two maps.

    Darknet's map mixes s * s neighbouring channels and the inverse ones s * s channels of equal offset: these are one
    unit, and their constants stay one if they are equal. The plain map repeats all channels s * s times.
    """
    x, s = inputs[0], layer.stride * layer.stride
    if layer.reverse:
        builder.couple(x.labels.reshape(s, x.channels // s))
        sources: IntArray = np.arange(x.channels).reshape(s, -1).T
    elif layer.mode == "darknet":
        blocks = np.arange(x.channels).reshape(-1, s)
        builder.couple(np.ascontiguousarray(x.labels[blocks].T))
        sources = np.tile(np.repeat(blocks, s, axis=0), (s, 1))
    else:
        sources = np.tile(np.arange(x.channels), s)
    return builder.moved(inputs, layer.name, sources, _same(x, layer))


def _scale_channels(builder: GraphBuilder, layer: L.ScaleChannels, inputs: list[Value]) -> Value:
    factors, x = inputs
    if layer.scale_wh:  # one factor per pixel, of a single channel
        builder.protect(factors, f"one factor for all channels of {layer.name}")
        y = builder.scaled(x, layer.name)
    else:
        y = builder.product([x, factors], layer.name)
    return _activated(builder, layer, y, layer.activation)


def _sam(builder: GraphBuilder, layer: L.Sam, inputs: list[Value]) -> Value:
    return _activated(builder, layer, builder.product(inputs, layer.name), layer.activation)


def _squeeze_excite(builder: GraphBuilder, layer: L.SqueezeExcite, inputs: list[Value]) -> Value:
    x = inputs[0]
    mean = builder.moved([x], layer.name, None, (1, 1))
    squeeze, excite = (
        Filters(f"{layer.name}.{part}", _path(layer, f"{part}.weight"), None, channels, kind="linear", fixed_bias=True)
        for part, channels in (("squeeze", layer.squeezed), ("excite", x.channels))
    )
    hidden = builder.filters(mean, squeeze)
    gates = builder.filters(builder.elementwise(hidden, layer.name, activation_function("relu")), excite)
    gates = builder.elementwise(gates, layer.name, activation_function("h_sigmoid"))
    reduction = max(x.channels // layer.squeezed, 1)
    builder.follow(
        Follower(
            hidden.labels, x.labels, partial(_squeezed, reduction), f"a cfg gives {layer.name} 1/{reduction} of its map"
        )
    )
    return builder.product([x, gates], layer.name)


def _squeezed(reduction: int, channels: int) -> int:
    return max(channels // reduction, 1)


def _activation(builder: GraphBuilder, layer: L.Activation, inputs: list[Value]) -> Value:
    return _activated(builder, layer, inputs[0], layer.activation)


def _softmax(builder: GraphBuilder, layer: L.Softmax, inputs: list[Value]) -> Value:
    why = f"every output of {layer.name} depends on all channels"
    return builder.opaque(inputs, layer.name, layer.shape.c, _same(inputs[0], layer), why)


_ADD: dict[type[L.Layer], Callable[..., Value]] = {
    L.Convolutional: _convolutional,
    L.Connected: _connected,
    L.BatchNorm: _batch_norm,
    L.Pool: _passed,
    L.AvgPool: _passed,
    L.Route: _route,
    L.Shortcut: _shortcut,
    L.Upsample: _upsample,
    L.Reorg: _reorg,
    L.ScaleChannels: _scale_channels,
    L.Sam: _sam,
    L.SqueezeExcite: _squeeze_excite,
    L.Activation: _activation,
    L.Softmax: _softmax,
    L.Identity: _passed,
    L.DetectionHead: _passed,
}

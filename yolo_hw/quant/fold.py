# SPDX-License-Identifier: Apache-2.0
"""From a model to the folded graph: the top function is `trace_model`; `trace_darknet` has a method per layer kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from yolo_hw.darknet import layers as L
from yolo_hw.darknet.layers import Layer, Shape
from yolo_hw.errors import QuantError
from yolo_hw.geometry import Window
from yolo_hw.intgraph.graph import INPUT
from yolo_hw.nn.blocks import BatchNormBlock, ConnectedBlock, ConvBlock, ShortcutBlock, SqueezeExciteBlock
from yolo_hw.nn.darknet import Darknet
from yolo_hw.quant import folded as F
from yolo_hw.quant.folded import FoldedGraph, FoldedNode
from yolo_hw.quant.folding import PIXEL_GAIN, POINT, conv_names, plain_name, reachable
from yolo_hw.quant.source import ConvSource, TracedModel
from yolo_hw.quant.trace_module import trace_module


def fold_model(model: nn.Module, input_shape: Shape | None = None) -> FoldedGraph:
    """Reduce a model to operators with an integer meaning; see `trace_model`."""
    return trace_model(model, input_shape).graph


def trace_model(model: nn.Module, input_shape: Shape | None = None) -> TracedModel:
    """Reduce a model to operators with an integer meaning, and remember which tensors the weights come from.

    Args:
        model: A darknet model, or any module that `trace_module` can follow; it is not changed.
        input_shape: Of the images; a darknet model knows its own.

    Returns:
        The folded graph and the sources of its convolutions.

    Raises:
        QuantError: The shape is missing or not the model's, or something has no integer form; names it.
    """
    if not isinstance(model, Darknet):
        if input_shape is None:
            raise QuantError(
                f"{type(model).__name__}: the size of the images is not known: give input_shape=Shape(c, h, w)"
            )
        return trace_module(model, input_shape)
    if input_shape is not None and Shape(*input_shape) != model.network.input:
        raise QuantError(f"{model.network.name}: images must be {model.network.input}, got {Shape(*input_shape)}")
    return trace_darknet(model)


def trace_darknet(model: Darknet) -> TracedModel:
    """Reduce a model to operators with an integer meaning, and remember which tensors the weights come from.

    Args:
        model: A darknet model; its batch norms are folded with their running statistics.

    Returns:
        The folded graph, without nodes that no output depends on, and the sources of its convolutions.

    Raises:
        QuantError: A layer has no integer form; names it.
    """
    folder = _Folder(model)
    for layer in model.network.layers:
        folder.tensor[layer.index] = folder.fold(layer)
    outputs = []
    for layer in model.network.outputs:
        spec = layer.spec if isinstance(layer, L.DetectionHead) else None
        outputs.append((folder.tensor[layer.index], spec))
    nodes = reachable(folder.nodes, {tensor for tensor, _ in outputs})
    _check_input_use(model, nodes)
    graph = FoldedGraph(plain_name(model.network.name), model.network.input, nodes, tuple(outputs))
    return TracedModel(graph, {name: folder.sources[name] for name in conv_names(graph)})


def _check_input_use(model: Darknet, nodes: tuple[FoldedNode, ...]) -> None:
    for node in nodes:
        if INPUT in node.inputs and not isinstance(node, F.FoldedConv):
            raise QuantError(
                f"{model.network.name}: {node.name}: only convolutions can read the image, because the factor 256/255 "
                "of the pixels is folded into their weights"
            )


class _Folder:
    """Builds the nodes layer by layer; `tensor` maps a layer's index to the tensor that holds its output."""

    def __init__(self, model: Darknet) -> None:
        self.model = model
        self.nodes: list[FoldedNode] = []
        self.sources: dict[str, ConvSource] = {}
        self.tensor: dict[int, str] = {-1: INPUT}
        self._fold: dict[type[Layer], Callable[..., str]] = {
            L.Convolutional: self._convolutional,
            L.Connected: self._connected,
            L.BatchNorm: self._batchnorm,
            L.Pool: self._pool,
            L.AvgPool: self._avgpool,
            L.Route: self._route,
            L.Shortcut: self._shortcut,
            L.Upsample: self._upsample,
            L.Reorg: self._reorg,
            L.ScaleChannels: self._scale_channels,
            L.Sam: self._sam,
            L.SqueezeExcite: self._squeeze_excite,
            L.Activation: self._activation,
            L.Softmax: self._softmax,
            L.Identity: self._pass,
            L.DetectionHead: self._pass,
        }

    def fold(self, layer: Layer) -> str:
        """Add the nodes of `layer`; return the tensor that holds its output."""
        return self._fold[type(layer)](layer)

    def _emit(self, node: FoldedNode) -> str:
        self.nodes.append(node)
        return node.name

    def _inputs(self, layer: Layer) -> tuple[str, ...]:
        return tuple(self.tensor[i] for i in layer.inputs)

    def _refuse(self, layer: Layer, reason: str) -> QuantError:
        return QuantError(f"{self.model.network.name} line {layer.place.line}: {layer.name}: {reason}")

    def _pass(self, layer: Layer) -> str:
        return self._inputs(layer)[0]

    def _gain(self, layer: Layer) -> float:
        return PIXEL_GAIN if self.tensor[layer.inputs[0]] == INPUT else 1.0

    def _softmax(self, layer: Layer) -> str:
        later = self.model.network.layers[layer.index + 1 :]
        if not all(isinstance(other, L.Identity) for other in later):
            raise self._refuse(layer, "a softmax has no integer form, except at the end, where the host computes it")
        return self._pass(layer)

    def _emit_source(self, source: ConvSource, **fields: Any) -> str:  # noqa: ANN401 - the fields of FoldedConv
        """Emit a convolution with the folded weights of `source`."""
        weight, bias = source.folded()
        node = F.FoldedConv(weight=weight, bias=bias, **fields)
        self.sources[node.name] = source
        return self._emit(node)

    def _emit_conv(self, layer: Layer, source: ConvSource, window: Window, groups: int = 1) -> str:
        """Emit a convolution that stands for a whole layer."""
        activation = getattr(layer, "activation", "linear")
        return self._emit_source(
            source,
            name=layer.name,
            inputs=self._inputs(layer),
            shape=layer.shape,
            activation=activation,
            window=window,
            groups=groups,
        )

    def _convolutional(self, layer: L.Convolutional) -> str:
        block = self.model.block(layer.name)
        assert isinstance(block, ConvBlock)
        window = Window(
            (layer.size, layer.size),
            (layer.stride_y, layer.stride_x),
            (layer.padding, layer.padding),
            (layer.dilation, layer.dilation),
        )
        source = ConvSource(block.conv.weight, block.bn, block.conv.bias, self._gain(layer))
        return self._emit_conv(layer, source, window, layer.groups)

    def _connected(self, layer: L.Connected) -> str:
        block = self.model.block(layer.name)
        assert isinstance(block, ConnectedBlock)
        shape = layer.in_shapes[0]
        weight = block.linear.weight.reshape(layer.shape.c, *shape)
        source = ConvSource(weight, block.bn, block.linear.bias, self._gain(layer))
        return self._emit_conv(layer, source, Window((shape.h, shape.w)))

    def _batchnorm(self, layer: L.BatchNorm) -> str:
        block = self.model.block(layer.name)
        assert isinstance(block, BatchNormBlock)
        assert block.bn is not None
        ones = torch.ones_like(block.bn.weight).reshape(-1, 1, 1, 1)
        source = ConvSource(ones, block.bn, None, self._gain(layer), fixed=True)
        return self._emit_conv(layer, source, POINT, layer.shape.c)

    def _pool(self, layer: L.Pool) -> str:
        if layer.mode != "max":
            raise self._refuse(layer, "local average pooling has no integer form yet; use avgpool or maxpool")
        window = Window(
            (layer.size, layer.size), (layer.stride_y, layer.stride_x), (layer.padding // 2, layer.padding // 2)
        )
        node = F.FoldedMaxPool(name=layer.name, inputs=self._inputs(layer), shape=layer.shape, window=window)
        return self._emit(node)

    def _avgpool(self, layer: L.AvgPool) -> str:
        return self._average(layer.name, self._inputs(layer)[0], layer.in_shapes[0])

    def _average(self, name: str, source: str, shape: Shape) -> str:
        mean = Shape(shape.c, 1, 1)
        return self._emit(F.FoldedAvgPool(name=name, inputs=(source,), shape=mean, count=shape.h * shape.w))

    def _route(self, layer: L.Route) -> str:
        parts = []
        for i, (source, shape) in enumerate(zip(self._inputs(layer), layer.in_shapes, strict=True)):
            if layer.groups == 1:
                parts.append(source)
                continue
            width = shape.c // layer.groups
            start = width * layer.group_id
            name = layer.name if len(layer.inputs) == 1 else f"{layer.name}.part{i}"
            piece = Shape(width, shape.h, shape.w)
            parts.append(
                self._emit(F.FoldedSlice(name=name, inputs=(source,), shape=piece, start=start, stop=start + width))
            )
        if len(parts) == 1:
            return parts[0]
        return self._emit(F.FoldedConcat(name=layer.name, inputs=tuple(parts), shape=layer.shape))

    def _shortcut(self, layer: L.Shortcut) -> str:
        block = self.model.block(layer.name)
        assert isinstance(block, ShortcutBlock)
        factors = block.factors()
        parts = []
        for i, (source, shape) in enumerate(zip(self._inputs(layer), layer.in_shapes, strict=True)):
            if shape.c < layer.shape.c:
                raise self._refuse(
                    layer, f"an input with {shape.c} of {layer.shape.c} channels has no integer form yet"
                )
            part = source
            if shape.c > layer.shape.c:
                part = self._emit(
                    F.FoldedSlice(
                        name=f"{layer.name}.part{i}", inputs=(source,), shape=layer.shape, start=0, stop=layer.shape.c
                    )
                )
            if factors is not None:
                part = self._emit_source(
                    ConvSource(factors[i].detach().expand(layer.shape.c).reshape(-1, 1, 1, 1), fixed=True),
                    name=f"{layer.name}.weighted{i}",
                    inputs=(part,),
                    shape=layer.shape,
                    window=POINT,
                    groups=layer.shape.c,
                )
            parts.append(part)
        return self._emit(
            F.FoldedAdd(name=layer.name, inputs=tuple(parts), shape=layer.shape, activation=layer.activation)
        )

    def _upsample(self, layer: L.Upsample) -> str:
        if layer.scale != 1:
            raise self._refuse(layer, f"scale must be 1, got {layer.scale}")
        return self._emit(
            F.FoldedUpsample(name=layer.name, inputs=self._inputs(layer), shape=layer.shape, stride=layer.stride)
        )

    def _reorg(self, layer: L.Reorg) -> str:
        return self._emit(
            F.FoldedReorg(
                name=layer.name,
                inputs=self._inputs(layer),
                shape=layer.shape,
                stride=layer.stride,
                reverse=layer.reverse,
                mode=layer.mode,
            )
        )

    def _scale_channels(self, layer: L.ScaleChannels) -> str:
        factors, source = self._inputs(layer)
        return self._emit(
            F.FoldedMul(name=layer.name, inputs=(source, factors), shape=layer.shape, activation=layer.activation)
        )

    def _sam(self, layer: L.Sam) -> str:
        factors, source = self._inputs(layer)
        return self._emit(
            F.FoldedMul(name=layer.name, inputs=(source, factors), shape=layer.shape, activation=layer.activation)
        )

    def _squeeze_excite(self, layer: L.SqueezeExcite) -> str:
        source = self._inputs(layer)[0]
        block = self.model.block(layer.name)
        assert isinstance(block, SqueezeExciteBlock)
        mean = self._average(f"{layer.name}.mean", source, layer.shape)
        parts = ((block.squeeze, "squeeze", "relu"), (block.excite, "excite", "h_sigmoid"))
        for linear, part, activation in parts:
            mean = self._emit_source(
                ConvSource(linear.weight[:, :, None, None]),
                name=f"{layer.name}.{part}",
                inputs=(mean,),
                shape=Shape(linear.out_features, 1, 1),
                activation=activation,
                window=POINT,
            )
        return self._emit(F.FoldedMul(name=layer.name, inputs=(source, mean), shape=layer.shape))

    def _activation(self, layer: L.Activation) -> str:
        if layer.activation == "linear":
            return self._pass(layer)
        return self._emit(
            F.FoldedAdd(name=layer.name, inputs=self._inputs(layer), shape=layer.shape, activation=layer.activation)
        )

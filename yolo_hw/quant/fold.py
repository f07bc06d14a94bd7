# SPDX-License-Identifier: Apache-2.0
"""From a darknet model to the folded graph. The top function is `fold_model`; one method per layer kind below."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from yolo_hw.darknet import layers as L
from yolo_hw.darknet.layers import Layer, Shape
from yolo_hw.errors import QuantError
from yolo_hw.geometry import Window
from yolo_hw.intgraph.graph import INPUT
from yolo_hw.nn.blocks import BatchNormBlock, ConnectedBlock, ConvBlock, ShortcutBlock
from yolo_hw.nn.darknet import Darknet
from yolo_hw.quant import folded as F
from yolo_hw.quant.folded import Float64Array, FoldedGraph, FoldedNode

PIXEL_GAIN = 256 / 255
"""Networks are trained on pixel / 255, the integer graph's input stands for pixel / 256."""

POINT = Window((1, 1))


def fold_model(model: Darknet) -> FoldedGraph:
    """Reduce a model to operators with an integer meaning.

    Args:
        model: A darknet model; its batch norms are folded with their running statistics.

    Returns:
        The folded graph, without nodes that no output depends on.

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
    nodes = _reachable(folder.nodes, {tensor for tensor, _ in outputs})
    _check_input_use(model, nodes)
    return FoldedGraph(plain_name(model.network.name), model.network.input, nodes, tuple(outputs))


def plain_name(name: str) -> str:
    """Return a cfg's name with everything replaced that has no place in file names and symbols."""
    return re.sub("[^A-Za-z0-9_.+-]|^[.+-]", "_", name)[:128] or "_"


def _reachable(nodes: list[FoldedNode], wanted: set[str]) -> tuple[FoldedNode, ...]:
    kept: list[FoldedNode] = []
    for node in reversed(nodes):
        if node.name in wanted:
            wanted = wanted | set(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))


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

    def _convolutional(self, layer: L.Convolutional) -> str:
        block = self.model.block(layer.name)
        assert isinstance(block, ConvBlock)
        weight, bias = fold_batch_norm(block)
        return self._emit(
            F.FoldedConv(
                name=layer.name,
                inputs=self._inputs(layer),
                shape=layer.shape,
                activation=layer.activation,
                weight=weight * self._gain(layer),
                bias=bias,
                window=Window(
                    (layer.size, layer.size),
                    (layer.stride_y, layer.stride_x),
                    (layer.padding, layer.padding),
                    (layer.dilation, layer.dilation),
                ),
                groups=layer.groups,
            )
        )

    def _connected(self, layer: L.Connected) -> str:
        block = self.model.block(layer.name)
        assert isinstance(block, ConnectedBlock)
        weight, bias = fold_batch_norm(block)
        source = layer.in_shapes[0]
        return self._emit(
            F.FoldedConv(
                name=layer.name,
                inputs=self._inputs(layer),
                shape=layer.shape,
                activation=layer.activation,
                weight=(weight * self._gain(layer)).reshape(layer.shape.c, *source),
                bias=bias,
                window=Window((source.h, source.w)),
            )
        )

    def _batchnorm(self, layer: L.BatchNorm) -> str:
        block = self.model.block(layer.name)
        assert isinstance(block, BatchNormBlock)
        weight, bias = fold_batch_norm(block)
        return self._depthwise_point(layer.name, self._inputs(layer)[0], layer.shape, weight * self._gain(layer), bias)

    def _depthwise_point(self, name: str, source: str, shape: Shape, factor: Float64Array, bias: Float64Array) -> str:
        """Emit ``factor[c] * x[c] + bias[c]``."""
        return self._emit(
            F.FoldedConv(
                name=name,
                inputs=(source,),
                shape=shape,
                weight=factor.reshape(shape.c, 1, 1, 1),
                bias=bias,
                window=POINT,
                groups=shape.c,
            )
        )

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
                factor = np.broadcast_to(factors[i].detach().double().cpu().numpy(), (layer.shape.c,)).copy()
                zero = np.zeros(layer.shape.c)
                part = self._depthwise_point(f"{layer.name}.weighted{i}", part, layer.shape, factor, zero)
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
        arrays = self.model.block(layer.name).arrays()
        mean = self._average(f"{layer.name}.mean", source, layer.shape)
        for role, part, activation in (("weight1", "squeeze", "relu"), ("weight2", "excite", "h_sigmoid")):
            weight = arrays[role].astype(np.float64)[:, :, None, None]
            mean = self._emit(
                F.FoldedConv(
                    name=f"{layer.name}.{part}",
                    inputs=(mean,),
                    shape=Shape(weight.shape[0], 1, 1),
                    activation=activation,
                    weight=weight,
                    bias=np.zeros(weight.shape[0]),
                    window=POINT,
                )
            )
        return self._emit(F.FoldedMul(name=layer.name, inputs=(source, mean), shape=layer.shape))

    def _activation(self, layer: L.Activation) -> str:
        if layer.activation == "linear":
            return self._pass(layer)
        return self._emit(
            F.FoldedAdd(name=layer.name, inputs=self._inputs(layer), shape=layer.shape, activation=layer.activation)
        )


def fold_batch_norm(block: ConvBlock | ConnectedBlock | BatchNormBlock) -> tuple[Float64Array, Float64Array]:
    r"""Fold a block's batch norm into its weight and bias, in float64.

    .. math:: s = \gamma / \sqrt{\sigma^2 + \epsilon}, \quad w' = w s, \quad b' = \beta - \mu s

    Args:
        block: Convolution, fully connected layer or stand-alone batch norm (whose weight is 1).

    Returns:
        Weight [K, ...] and bias [K].

    Reference:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        CVPR 2018, eq. (14).
    """
    if isinstance(block, BatchNormBlock):
        weight = np.ones(block.layer.shape.c)
    else:
        weight = block.parameter_of("weight").detach().double().cpu().numpy()
    if block.bn is None:
        return weight, block.parameter_of("bias").detach().double().cpu().numpy()
    scale, mean, var, beta = (
        block.parameter_of(role).detach().double().cpu().numpy() for role in ("scale", "mean", "var", "bias")
    )
    factor = scale / np.sqrt(np.maximum(var, 0) + block.bn.eps)
    return weight * factor.reshape(-1, *[1] * (weight.ndim - 1)), beta - mean * factor

# SPDX-License-Identifier: Apache-2.0
"""A float model as ONNX, with batch norms folded or kept.

The nodes are those of the folded graph, so the exporter knows every layer that quantisation knows; with kept batch
norms only a convolution's own parameters are the layer's instead of the folded ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import ExportError
from yolo_hw.interop.onnx_activations import emit_activation
from yolo_hw.interop.onnx_graph import OnnxBuilder, Port, save_model
from yolo_hw.interop.onnx_metadata import float_metadata
from yolo_hw.interop.onnx_moves import emit_move
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.graph import INPUT
from yolo_hw.intgraph.nodes import Node
from yolo_hw.nn.blocks import BatchNormBlock, ConnectedBlock, ConvBlock
from yolo_hw.nn.darknet import Darknet
from yolo_hw.quant import folded as F
from yolo_hw.quant.fold import fold_model
from yolo_hw.quant.folded import Float64Array, FoldedGraph, FoldedNode
from yolo_hw.quant.folding import PIXEL_GAIN
from yolo_hw.quant.qat import QatModel

ROLES = ("scale", "bias", "mean", "var")
"""The arrays of a batch norm in the order of ONNX BatchNormalization."""


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm that stays one.

    Attributes:
        weight: [K, ...] of the convolution before it; None for a layer that is nothing but a batch norm.
        arrays: [K] each, in the order of `ROLES`.
        eps: Added to the variance.
    """

    weight: Float64Array | None
    arrays: tuple[Float64Array, ...]
    eps: float


def export_float_onnx(
    model: nn.Module | FoldedGraph,
    path: str | Path,
    *,
    input_shape: Shape | None = None,
    keep_batch_norm: bool = False,
    batch: int | None = 1,
) -> None:
    """Write a float model as ONNX (opset 13).

    The input ``input`` is [N, C, H, W] float32, RGB / 255 for a model and pixels / 256 for a folded graph. Outputs
    are the raw maps of the heads [N, K, h, w] float32 in the model's order, called like the layer that computes them; a
    softmax at the end is left to the host, as in every other form.

    Args:
        model: A darknet model, a `QatModel` (its float weights), any module that `trace_module` can follow, in its
            evaluation form; or a folded graph.
        path: The file.
        input_shape: Of the images, for modules that do not know it.
        keep_batch_norm: Export batch norms as BatchNormalization instead of folding them; needs a `Darknet`.
        batch: Images per run; None leaves the number free.

    Raises:
        QuantError: A layer that `fold_model` does not know; names it; or the shape is missing.
        ExportError: There are no batch norms to keep.
    """
    exported = float_model(model, input_shape=input_shape, keep_batch_norm=keep_batch_norm, batch=batch)
    save_model(exported, path)


def float_model(
    model: nn.Module | FoldedGraph,
    *,
    input_shape: Shape | None = None,
    keep_batch_norm: bool = False,
    batch: int | None = 1,
) -> onnx.ModelProto:
    """Return the model that `export_float_onnx` writes."""
    norms: dict[str, Norm] = {}
    if keep_batch_norm:
        if not isinstance(model, Darknet):
            raise ExportError(f"only a Darknet model has batch norms that can be kept, got {type(model).__name__}")
        norms = _norms(model)
    graph, gain = _folded(model, input_shape)
    form = _FloatForm(graph, norms, gain, batch)
    for node in graph.nodes:
        form.add(node)
    names = form.b.outputs([tensor for tensor, _ in graph.outputs], [INPUT])
    outputs = [
        (name, tensor, form.shapes[tensor], head) for name, (tensor, head) in zip(names, graph.outputs, strict=True)
    ]
    metadata = float_metadata(gain / 256, graph.input_shape, outputs)
    ports = [Port(name, np.float32, shape) for name, _, shape, _ in outputs]
    return form.b.finish([Port(INPUT, np.float32, graph.input_shape)], ports, metadata)


def _folded(model: nn.Module | FoldedGraph, input_shape: Shape | None) -> tuple[FoldedGraph, float]:
    """Return the folded graph and the factor that its first weights have too much for the input."""
    if isinstance(model, FoldedGraph):
        return model, 1.0
    if isinstance(model, QatModel):
        return model.folded_graph(), PIXEL_GAIN
    return fold_model(model, input_shape), PIXEL_GAIN


def _norms(model: Darknet) -> dict[str, Norm]:
    """Return the batch norms of a model by the name of their layer, which is the name of the folded node."""
    found = {}
    for layer in model.network.layers:
        block = model.block(layer.name)
        if not isinstance(block, (ConvBlock, ConnectedBlock, BatchNormBlock)) or block.bn is None:
            continue
        arrays = {role: block.parameter_of(role).detach().double().cpu().numpy() for role in ROLES}
        arrays["var"] = np.maximum(arrays["var"], 0)
        weight = None
        if not isinstance(block, BatchNormBlock):
            weight = block.parameter_of("weight").detach().double().cpu().numpy()
        found[layer.name] = Norm(weight, tuple(arrays[role] for role in ROLES), block.bn.eps)
    return found


class _FloatForm:
    """Emits the nodes of a folded graph."""

    def __init__(self, graph: FoldedGraph, norms: dict[str, Norm], gain: float, batch: int | None) -> None:
        self.b = OnnxBuilder(graph.name, batch)
        self.norms, self.gain = norms, gain
        self.shapes = {INPUT: graph.input_shape, **{node.name: node.shape for node in graph.nodes}}

    def add(self, node: FoldedNode) -> None:
        """Add a node; its result gets its name."""
        if isinstance(node, F.FoldedMaxPool):
            x, window = self.b.windowed(node.inputs[0], node.window, self._around(node), node.name)
            self.b.emit("MaxPool", [x], node.name, **window)
        elif node.moves:
            move = _MOVES[type(node)](node)
            emit_move(self.b, move, node.inputs, self.shapes[node.inputs[0]], node.name, settle=lambda name: name)
        else:
            self.b.rename_last(emit_activation(self.b, node.activation, self._computed(node), node.name), node.name)

    def _computed(self, node: FoldedNode) -> str:
        inputs, out = list(node.inputs), f"{node.name}/pre"
        if isinstance(node, F.FoldedConv):
            return self._conv(node, out)
        if isinstance(node, F.FoldedMul):
            return self.b.emit("Mul", inputs, out)
        if isinstance(node, F.FoldedAvgPool):
            return self.b.emit("GlobalAveragePool", inputs, out)
        assert isinstance(node, F.FoldedAdd)
        return inputs[0] if len(inputs) == 1 else self.b.emit("Sum", inputs, out)

    def _conv(self, node: F.FoldedConv, out: str) -> str:
        norm = self.norms.get(node.name)
        gain = self.gain if node.inputs[0] == INPUT else 1.0
        if norm is None:
            return self._convolved(node, [node.weight / gain, node.bias], out)
        x = node.inputs[0]
        if norm.weight is not None:
            x = self._convolved(node, [norm.weight.reshape(node.weight.shape)], f"{out}/conv")
        arrays = [
            self.b.constant(array, np.float32, f"{node.name}/{role}")
            for role, array in zip(ROLES, norm.arrays, strict=True)
        ]
        return self.b.emit("BatchNormalization", [x, *arrays], out, epsilon=norm.eps)

    def _convolved(self, node: F.FoldedConv, parameters: list[Float64Array], out: str) -> str:
        x, window = self.b.windowed(node.inputs[0], node.window, self._around(node), node.name)
        roles = ("weight", "folded_bias")
        arrays = [
            self.b.constant(array, np.float32, f"{node.name}/{role}")
            for role, array in zip(roles, parameters, strict=False)
        ]
        return self.b.emit("Conv", [x, *arrays], out, group=node.groups, **window)

    def _around(self, node: FoldedNode) -> tuple[Shape, Shape]:
        return self.shapes[node.inputs[0]], node.shape


_MOVES: dict[type[FoldedNode], Callable[..., Node]] = {
    F.FoldedConcat: lambda node: N.Concat(name=node.name, inputs=node.inputs),
    F.FoldedSlice: lambda node: N.Slice(name=node.name, inputs=node.inputs, start=node.start, stop=node.stop),
    F.FoldedUpsample: lambda node: N.Upsample(name=node.name, inputs=node.inputs, stride=node.stride),
    F.FoldedReorg: lambda node: N.Reorg(
        name=node.name, inputs=node.inputs, stride=node.stride, reverse=node.reverse, mode=node.mode
    ),
}
"""Moving nodes are the same in both graphs."""

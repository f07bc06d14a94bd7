# SPDX-License-Identifier: Apache-2.0
"""A float64 forward of a Darknet whose sums run in one fixed order, so that a term of zero changes no bit.

The value of a floating-point sum depends on its order. A library's convolution may choose another order for 512 input
channels than for 300, and its vector code another rounding for the last elements of a row. Here every sum adds channel
by channel and tap by tap, and every function is applied to one channel at a time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from yolo_hw.darknet import layers as L
from yolo_hw.nn.activations import activate
from yolo_hw.nn.blocks import ConvBlock, SqueezeExciteBlock
from yolo_hw.nn.darknet import Darknet

Map = npt.NDArray[np.float64]


def ordered_forward(model: Darknet, x: Tensor) -> list[Map]:
    """Return the maps [K, h, w] of every output for one image [1, C, H, W].

    Args:
        model: In evaluation mode; its tensors may be float32.
        x: float64.
    """
    maps: dict[int, Map] = {-1: x[0].numpy()}
    last_use = {i: layer.index for layer in model.network.layers for i in layer.inputs}
    outputs = [layer.index for layer in model.network.outputs]
    for layer in model.network.layers:
        inputs = [maps[i] for i in layer.inputs]
        block = model.block(layer.name)
        if isinstance(block, ConvBlock):
            maps[layer.index] = _convolution(block, layer, inputs[0])
        elif isinstance(block, SqueezeExciteBlock):
            maps[layer.index] = _squeeze_excite(block, inputs[0])
        else:
            assert isinstance(layer, L.Pool | L.Route | L.Shortcut | L.Upsample | L.Identity | L.DetectionHead), layer
            assert getattr(layer, "activation", "linear") == "linear"
            assert not layer.params
            maps[layer.index] = block([torch.from_numpy(m)[None] for m in inputs])[0].numpy()
        for i in {i for i in layer.inputs if last_use[i] == layer.index and i not in outputs}:
            del maps[i]
    return [maps[i] for i in outputs]


def _convolution(block: ConvBlock, layer: L.Convolutional, x: Map) -> Map:
    y = _ordered_sums(x, _double(block.conv.weight), layer)
    if block.bn is None:
        return _per_channel(layer.activation, y + _double(block.conv.bias)[:, None, None])
    bn = block.bn
    scale = _double(bn.weight) / np.sqrt(_double(bn.running_var) + bn.eps)
    y -= _double(bn.running_mean)[:, None, None]
    y *= scale[:, None, None]
    return _per_channel(layer.activation, y + _double(bn.bias)[:, None, None])


def _ordered_sums(x: Map, weight: Map, layer: L.Convolutional) -> Map:
    """Return ``y[k] = sum_c sum_rs w[k, c, r, s] x[c]``, added in the order of c, r, s."""
    groups, (filters, inside, rows, columns) = layer.groups, weight.shape
    pad, dilation = layer.padding, layer.dilation
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    height = (x.shape[1] - dilation * (rows - 1) - 1) // layer.stride_y + 1
    width = (x.shape[2] - dilation * (columns - 1) - 1) // layer.stride_x + 1
    x = x.reshape(groups, 1, inside, *x.shape[1:])
    taps = np.ascontiguousarray(weight.reshape(groups, -1, inside, rows, columns).transpose(2, 3, 4, 0, 1))
    y = np.zeros((groups, filters // groups, height, width))
    term = np.empty_like(y)
    for c in range(inside):
        for r in range(rows):
            for s in range(columns):
                top, left = r * dilation, s * dilation
                window = x[
                    :, :, c, top : top + layer.stride_y * height : layer.stride_y,
                    left : left + layer.stride_x * width : layer.stride_x,
                ]  # fmt: skip
                np.multiply(taps[c, r, s][..., None, None], window[:, :, :height, :width], out=term)
                np.add(y, term, out=y)
    return y.reshape(filters, height, width)


def _squeeze_excite(block: SqueezeExciteBlock, x: Map) -> Map:
    mean = np.array([channel.mean() for channel in x])
    hidden = np.maximum(_ordered_product(_double(block.squeeze.weight), mean), 0)
    gates = _ordered_product(_double(block.excite.weight), hidden)
    return (
        x * np.array([float(F.hardsigmoid(torch.tensor(gate, dtype=torch.float64))) for gate in gates])[:, None, None]
    )


def _ordered_product(matrix: Map, vector: Map) -> Map:
    total = np.zeros(len(matrix))
    for column, value in zip(matrix.T, vector, strict=True):
        total = total + column * value
    return total


def _per_channel(activation: str, y: Map) -> Map:
    return np.stack([activate(activation, torch.from_numpy(np.ascontiguousarray(channel))).numpy() for channel in y])


def _double(tensor: Tensor | None) -> Map:
    assert tensor is not None
    return np.asarray(tensor.detach().double().numpy())

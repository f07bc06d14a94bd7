# SPDX-License-Identifier: Apache-2.0
"""Shapes of the layers of a model, as accelerators and reports want them."""

from __future__ import annotations

from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.cost import CostModel, LayerShape
from yolo_hw.prune.darknet_surgery import darknet_groups


def layer_shapes(model: Darknet) -> list[LayerShape]:
    """Return every convolution and fully connected layer of a model in graph order."""
    shapes = {key: tuple(parameter.shape) for key, parameter in model.named_parameters()}
    return CostModel(darknet_groups(model), shapes).layers({})


def layer_macs(shape: LayerShape) -> int:
    """Return K * C / groups * R * S * H * W."""
    taps = shape.kernel[0] * shape.kernel[1]
    return shape.out_channels * shape.in_channels // shape.groups * taps * shape.height * shape.width

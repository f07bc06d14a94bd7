# SPDX-License-Identifier: Apache-2.0
"""First weights of a network that is trained from nothing."""

from __future__ import annotations

import math

import torch
from torch import nn

from yolo_hw.darknet.layers import HeadSpec
from yolo_hw.nn.activations import LEAKY_SLOPE
from yolo_hw.nn.blocks import ConvBlock
from yolo_hw.nn.darknet import Darknet

OBJECT_PRIOR = 0.01
"""Objectness every prediction starts with."""
HEAD_STD = 0.01


@torch.no_grad()
def initialise(model: Darknet, seed: int) -> None:
    """Draw all convolution weights anew, in place.

    Weights are normal with deviation ``sqrt(2 / ((1 + slope**2) fan_out))`` (He et al., "Delving Deep into
    Rectifiers", ICCV 2015, eq. (15)). The convolution before a head starts near zero with the objectness bias
    ``-log((1 - p) / p)``, p = 0.01, so that the many empty cells do not drown the first steps (Lin et al., "Focal Loss
    for Dense Object Detection", ICCV 2017, section 4.1).

    Args:
        model: The network.
        seed: Of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
            std = math.sqrt(2 / ((1 + LEAKY_SLOPE**2) * fan_out))
            module.weight.normal_(0, std, generator=generator)
    for head in model.network.heads:
        block = model.block(model.network.layers[head.inputs[0]].name)
        if isinstance(block, ConvBlock) and block.conv.bias is not None and head.spec.kind == "yolo":
            block.conv.weight.normal_(0, HEAD_STD, generator=generator)
            block.conv.bias.copy_(_head_bias(head.spec))


def _head_bias(head: HeadSpec) -> torch.Tensor:
    bias = torch.zeros(len(head.anchors), 5 + head.classes)
    bias[:, 4] = -math.log((1 - OBJECT_PRIOR) / OBJECT_PRIOR)
    return bias.flatten()

# SPDX-License-Identifier: Apache-2.0
"""Masks of a float model as those of its quantised form: zeros stay zeros, in training and as codes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from yolo_hw.errors import QuantError, nearest
from yolo_hw.quant.fold import trace_model
from yolo_hw.quant.qat.conv import QatConv
from yolo_hw.quant.qat.model import QatModel
from yolo_hw.quant.source import ConvSource


def qat_masks(qat: QatModel, like: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the masks under the names and in the shapes that the parameters have in a quantised model.

    A copy of the float model with masks for weights goes through the same tracing as the model itself, so that a mask
    arrives where its weights do. A weight of zero stays zero under every factor of a batch norm, and its code is 0.

    Args:
        qat: The model.
        like: The float model `qat` was made of, or one of the same architecture; it is not changed.
        masks: By parameter of `like`, bool of its shape, True is kept: what `yolo_hw.prune` makes.

    Returns:
        By parameter of `qat`, for `yolo_hw.prune.masked_training.MaskedTraining`.

    Raises:
        QuantError: A mask has no parameter or another shape, or its parameter is none of `qat`, where weights are
            derived from it.
    """
    marked = copy.deepcopy(like)
    parameters = dict(marked.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.fill_(1)
        for name, mask in masks.items():
            if name not in parameters:
                raise QuantError(f"mask '{name}' must name a parameter of the model{nearest(name, parameters)}")
            if mask.shape != parameters[name].shape:
                known = list(parameters[name].shape)
                raise QuantError(f"mask '{name}' must have the shape of its parameter, {known}, got {list(mask.shape)}")
            parameters[name].copy_(mask)
    names = {id(parameter): name for name, parameter in qat.named_parameters()}
    found, reached = {}, set()
    for node, source in trace_model(marked, qat.graph.input_shape).sources.items():
        for mine, mark in _pairs(qat.conv(node), source):
            reached.add(mark.untyped_storage().data_ptr())
            if not mark.all():
                found[names[id(mine)]] = mark != 0
    for name, mask in masks.items():
        if not mask.all() and parameters[name].untyped_storage().data_ptr() not in reached:
            raise QuantError(
                f"mask '{name}': quantised training has no parameter of its own for it, its weights are derived: "
                "leave it out of the masks"
            )
    return found


def _pairs(conv: QatConv, source: ConvSource) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Yield the parameters of a convolution with the tensors of the float model they start from."""
    pairs = [(conv.weight, source.weight), (conv.bias, source.bias)]
    if conv.norm is not None and source.norm is not None:
        pairs += [(conv.norm.weight, source.norm.weight), (conv.norm.bias, source.norm.bias)]
    for mine, other in pairs:
        if isinstance(mine, nn.Parameter) and other is not None:
            yield mine, other.detach()

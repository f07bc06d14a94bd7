# SPDX-License-Identifier: Apache-2.0
"""Running the folded graph in torch, in float for calibration and in float64 with rounding for the simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from yolo_hw.intgraph.graph import INPUT, INPUT_FORMAT
from yolo_hw.intgraph.liveness import last_reads
from yolo_hw.nn.activations import activate
from yolo_hw.nn.blocks import reorg
from yolo_hw.nn.windows import pad_windows
from yolo_hw.quant import folded as G
from yolo_hw.quant.folded import FoldedGraph, FoldedNode


class NodeResult(NamedTuple):
    """What a node computed.

    Attributes:
        node: The node.
        pre: [N, C, H, W] the accumulators: before averaging, activation and rounding.
        out: [N, C, H, W] the node's output.
    """

    node: FoldedNode
    pre: Tensor
    out: Tensor


class ConvParameters(NamedTuple):
    """Weight [K, C / groups, R, S] and bias [K] as torch tensors."""

    weight: Tensor
    bias: Tensor


Finish = Callable[[FoldedNode, Tensor], Tensor]
"""Turns a node's raw result into its output."""


def image_tensor(images: npt.NDArray[np.uint8], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return images [N, H, W, C] as the folded graph takes them: [N, C, H, W], pixels / 256."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(dtype) / (1 << INPUT_FORMAT.frac)


def float_parameters(graph: FoldedGraph, dtype: torch.dtype = torch.float32) -> dict[str, ConvParameters]:
    """Return the folded weights as tensors."""
    return {
        node.name: ConvParameters(torch.from_numpy(node.weight).to(dtype), torch.from_numpy(node.bias).to(dtype))
        for node in graph.nodes
        if isinstance(node, G.FoldedConv)
    }


def float_finish(node: FoldedNode, pre: Tensor) -> Tensor:
    """Apply the node's activation, no rounding."""
    return activate(node.activation, pre / node.count if isinstance(node, G.FoldedAvgPool) else pre)


def run_folded(
    graph: FoldedGraph, x: Tensor, parameters: dict[str, ConvParameters], finish: Finish = float_finish
) -> Iterator[NodeResult]:
    """Run a folded graph node by node.

    Args:
        graph: The graph.
        x: [N, C, H, W] pixels / 256, in the dtype of `parameters`.
        parameters: Weights of every convolution.
        finish: Applied to the raw result of every node that does not only move values.

    Yields:
        One result per node; maps nobody needs any more are dropped.
    """
    maps: dict[str, Tensor] = {INPUT: x}
    for node, dying in zip(graph.nodes, last_reads(graph.nodes), strict=True):
        pre = raw_result(node, [maps[name] for name in node.inputs], parameters)
        out = pre if node.moves else finish(node, pre)
        maps[node.name] = out
        yield NodeResult(node, pre, out)
        for name in dying:
            del maps[name]


def raw_result(node: FoldedNode, inputs: list[Tensor], parameters: dict[str, ConvParameters]) -> Tensor:
    """Return a node's accumulators [N, C, H, W], or the moved values of a moving node."""
    x = inputs[0]
    if isinstance(node, G.FoldedConv):
        weight, bias = parameters[node.name]
        padded = pad_windows(x, node.window, node.shape[1:], 0.0)
        return F.conv2d(padded, weight, bias, node.window.stride, 0, node.window.dilation, node.groups)
    if isinstance(node, G.FoldedMaxPool):
        return F.max_pool2d(
            pad_windows(x, node.window, node.shape[1:], -torch.inf), node.window.size, node.window.stride
        )
    if isinstance(node, G.FoldedAdd):
        return x if len(inputs) == 1 else torch.stack(inputs).sum(0)
    if isinstance(node, G.FoldedMul):
        return x * inputs[1]
    if isinstance(node, G.FoldedAvgPool):
        return x.sum((2, 3), keepdim=True)
    if isinstance(node, G.FoldedConcat):
        return torch.cat(inputs, 1)
    if isinstance(node, G.FoldedSlice):
        return x[:, node.start : node.stop]
    if isinstance(node, G.FoldedUpsample):
        return x.repeat_interleave(node.stride, 2).repeat_interleave(node.stride, 3)
    assert isinstance(node, G.FoldedReorg)
    return reorg(x, node.stride, node.reverse, node.mode)

# SPDX-License-Identifier: Apache-2.0
"""The folded graph under construction: nodes by unique names, some of which may still take in what follows them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from yolo_hw.darknet.layers import Shape
from yolo_hw.geometry import Window
from yolo_hw.intgraph.graph import INPUT
from yolo_hw.quant import folded as F
from yolo_hw.quant.folded import FoldedNode
from yolo_hw.quant.folding import PIXEL_GAIN, POINT, plain_name
from yolo_hw.quant.source import ConvSource, Norm
from yolo_hw.quant.traced.values import Source

IMAGE = "image"
"""Name of the node that hands the image to nodes that are no convolutions."""


class Builder:
    """Emits nodes, and changes those whose only reader is about to be merged into them.

    Attributes:
        nodes: In execution order, by name.
        sources: Of the convolutions, by name.
        image: The image.
        like: A tensor of the dtype and device that constants shall have.
    """

    def __init__(self, image: Shape, like: Tensor) -> None:
        """Start with the image alone."""
        self.nodes: dict[str, FoldedNode] = {}
        self.sources: dict[str, ConvSource] = {}
        self.image = Source(INPUT, image)
        self.like = like
        self._internal: Source | None = None

    def unique(self, name: str) -> str:
        """Return a valid name that no node has, made of `name`."""
        plain = plain_name(name)
        found, count = plain, 0
        while found == INPUT or found in self.nodes:
            count += 1
            found = f"{plain[: 127 - len(str(count))]}_{count}"
        return found

    def emit(self, node: FoldedNode) -> Source:
        """Add a node; its name must be unique."""
        assert node.name not in self.nodes
        self.nodes[node.name] = node
        return Source(node.name, node.shape)

    def conv(
        self, name: str, x: Source, source: ConvSource, shape: Shape, window: Window = POINT, *, groups: int = 1
    ) -> Source:
        """Add a convolution; one that reads the image gets the pixels' factor."""
        if x == self.image:
            source = replace(source, gain=PIXEL_GAIN)
            if source.fixed and groups == x.shape.c and source.weight.shape[1] == 1:
                source, groups = replace(source, weight=_dense(source.weight)), 1  # all an accelerator has for images
        weight, bias = source.folded()
        name = self.unique(name)
        self.sources[name] = source
        return self.emit(
            F.FoldedConv(
                name=name, inputs=(x.name,), shape=shape, weight=weight, bias=bias, window=window, groups=groups
            )
        )

    def fixed_conv(self, name: str, x: Source, weight: Tensor, shape: Shape, window: Window = POINT) -> Source:
        """Add a convolution with constant weights, dense [K, C, R, S] or depthwise [C, 1, R, S]."""
        groups = x.shape.c if weight.shape[1] == 1 else 1
        source = ConvSource(self.constant(weight), fixed=True)
        return self.conv(name, x, source, shape, window, groups=groups)

    def depthwise(self, name: str, x: Source, source: ConvSource) -> Source:
        """Add a 1 x 1 convolution of every channel on its own, weights [C, 1, 1, 1]."""
        return self.conv(name, x, source, x.shape, groups=x.shape.c)

    def constant(self, x: Tensor) -> Tensor:
        """Return a constant in the model's dtype and on its device."""
        return x.detach().to(self.like)

    def readable(self, x: Source) -> Source:
        """Return `x`, or for the image, which only convolutions can read, a copy with the pixels' factor."""
        if x != self.image:
            return x
        if self._internal is None:
            ones = torch.ones(x.shape.c, 1, 1, 1)
            self._internal = self.depthwise(IMAGE, x, ConvSource(self.constant(ones), fixed=True))
        return self._internal

    def linear_conv(self, name: str) -> ConvSource | None:
        """Return the source of a convolution that has neither batch norm nor activation, else None."""
        node = self.nodes.get(name)
        if not isinstance(node, F.FoldedConv) or node.activation != "linear" or self.sources[name].norm is not None:
            return None
        return self.sources[name]

    def change_source(self, name: str, source: ConvSource) -> None:
        """Fold other parameters into an existing convolution."""
        node = self.nodes[name]
        assert isinstance(node, F.FoldedConv)
        weight, bias = source.folded()
        self.sources[name] = source
        self.nodes[name] = replace(node, weight=weight, bias=bias)

    def fuse_norm(self, name: str, norm: Norm) -> bool:
        """Append a batch norm to a convolution, if it can take one."""
        source = self.linear_conv(name)
        if source is None:
            return False
        self.change_source(name, replace(source, norm=norm))
        return True

    def fuse_activation(self, name: str, activation: str) -> bool:
        """Append an activation to a node, if it can take one."""
        node = self.nodes.get(name)
        if not isinstance(node, (F.FoldedConv, F.FoldedAdd, F.FoldedMul)) or node.activation != "linear":
            return False
        self.nodes[name] = replace(node, activation=activation)
        return True


def _dense(weight: Tensor) -> Tensor:
    """Return depthwise weights [C, 1, R, S] as [C, C, R, S] with zeros between different channels."""
    return torch.diag_embed(weight[:, 0].permute(1, 2, 0)).permute(2, 3, 0, 1)


def is_diagonal(weight: Tensor) -> bool:
    """Return whether weights [K, C, 1, 1] treat every channel on its own, as `_dense` makes them."""
    matrix = weight[:, :, 0, 0]
    return matrix.shape[0] == matrix.shape[1] and bool((matrix == matrix.diagonal().diag()).all())

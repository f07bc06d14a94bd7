# SPDX-License-Identifier: Apache-2.0
"""Modules traced to folded graphs: running them beside the module, and one operator's code at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from support.zoo import settle
from support.zoo_classifiers import ConvNorm
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from yolo_hw.darknet.layers import Shape
from yolo_hw.quant.execute import float_parameters, run_folded
from yolo_hw.quant.folding import PIXEL_GAIN
from yolo_hw.quant.source import TracedModel
from yolo_hw.quant.trace_module import trace_module

WIDTH = 12
SIZE = Shape(3, 16, 24)
"""Not square, so that rows taken for columns show."""


class Coded(nn.Module):
    """A stem and a function of the module and its map [N, 12, 8, 12]."""

    def __init__(self, code: Callable[[Any, Tensor], Any], **parts: nn.Module | Tensor):
        super().__init__()
        self.stem, self.code = ConvNorm(3, WIDTH, 3, 2, act=None), code
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            elif isinstance(part, nn.Parameter):
                self.register_parameter(name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.code(self, self.stem(x))


def coded(code: Callable[[Any, Tensor], Any], **parts: nn.Module | Tensor) -> nn.Module:
    """Return a module around `code` in float64."""
    torch.manual_seed(0)
    return settle(Coded(code, **parts))


def folded_outputs(traced: TracedModel, images: Tensor) -> Any:
    """Run a traced graph in float64 on images [N, C, H, W] in [0, 1]; return what the module returns."""
    graph = traced.graph
    results = run_folded(graph, images / PIXEL_GAIN, float_parameters(graph, torch.float64))
    found = {result.node.name: result.out for result in results}
    assert traced.pack is not None
    return traced.pack([found[name] for name, _ in graph.outputs])


def assert_traced_equals_module(module: nn.Module, size: Shape = SIZE) -> TracedModel:
    """Check that the folded graph computes what a float64 module in evaluation mode does, in the same structure."""
    traced = trace_module(module, size)
    images = torch.rand(3, *size, dtype=torch.float64, generator=torch.manual_seed(1))
    with torch.inference_mode():
        wanted, structure = tree_flatten(module(images))
        found, same = tree_flatten(folded_outputs(traced, images))
    assert same == structure
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    return traced

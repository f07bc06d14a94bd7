# SPDX-License-Identifier: Apache-2.0
"""Models as a user of Brevitas writes them, some steps away from where they start. Needs torch and brevitas."""

from __future__ import annotations

import copy
from typing import Any

import brevitas.nn as qnn
import numpy as np
import torch
from brevitas.quant import Int8ActPerTensorFixedPoint as Signed
from brevitas.quant import Int8BiasPerTensorFixedPointInternalScaling as OwnBias
from brevitas.quant import Int8WeightPerTensorFixedPoint as PerTensor
from brevitas.quant import Uint8ActPerTensorFixedPoint as Unsigned
from brevitas.quant.fixed_point import Int8WeightPerChannelFixedPoint as PerChannel
from brevitas.quant.scaled_int import Int32Bias
from brevitas.quant_tensor import QuantTensor
from support.random_graph import adversarial_inputs
from torch import Tensor, nn

from yolo_hw.fixedpoint import dequantise
from yolo_hw.interop.brevitas_in import from_brevitas
from yolo_hw.intgraph import INPUT, IntGraph, run_outputs
from yolo_hw.intgraph.engine import Engine
from yolo_hw.intgraph.execute import input_codes

SIZE = (2, 3, 16, 16)
"""N, C, H, W of the models' images."""


def conv(c: int, k: int, size: int = 3, **options) -> qnn.QuantConv2d:
    """Return a quantised convolution that keeps the map's size."""
    options = {"weight_quant": PerChannel, "bias_quant": Int32Bias, "return_quant_tensor": True} | options
    return qnn.QuantConv2d(c, k, size, padding=size // 2, **options)


def relu(**options) -> qnn.QuantReLU:
    return qnn.QuantReLU(act_quant=Unsigned, return_quant_tensor=True, **options)


def identity(**options) -> qnn.QuantIdentity:
    return qnn.QuantIdentity(act_quant=Signed, return_quant_tensor=True, **options)


class SmallNet(nn.Module):
    """A classifier: convolutions, pools, an average, a linear layer."""

    def __init__(self, w_bits: int = 8, a_bits: int = 8, weight=PerTensor, bias=Int32Bias) -> None:
        super().__init__()
        act, kind = {"bit_width": a_bits}, {"weight_quant": weight, "weight_bit_width": w_bits, "bias_quant": bias}
        self.inp = identity()
        self.features = nn.Sequential(
            conv(3, 8, **kind), relu(**act), nn.MaxPool2d(2), conv(8, 12, **kind), relu(**act), conv(12, 8, 1, **kind),
            relu(**act), nn.AdaptiveAvgPool2d(1), identity(**act), nn.Flatten(),
        )  # fmt: skip
        self.head = qnn.QuantLinear(8, 5, bias=True, output_quant=Signed, **kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(self.inp(x)))


class Block(nn.Module):
    """A residual block with batch norms, which `merged` merges."""

    def __init__(self, c: int, k: int, a_bits: int) -> None:
        super().__init__()
        self.conv1, self.norm1, self.act1 = conv(c, k, bias=False), nn.BatchNorm2d(k), relu(bit_width=a_bits)
        self.conv2, self.norm2 = conv(k, k, bias=False), nn.BatchNorm2d(k)
        self.short = conv(c, k, 1, bias=False) if c != k else nn.Identity()
        self.add = qnn.QuantEltwiseAdd(input_quant=Signed, output_quant=None, input_bit_width=a_bits,
                                       return_quant_tensor=True)  # fmt: skip
        self.act2 = relu(bit_width=a_bits)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        return self.act2(self.add(y, self.short(x)))

    def merge(self) -> None:
        self.conv1.merge_bn_in(self.norm1)
        self.conv2.merge_bn_in(self.norm2)
        self.norm1 = self.norm2 = nn.Identity()


class ResNet(nn.Module):
    """Two residual blocks and a head with its own output quantiser."""

    def __init__(self, a_bits: int = 8) -> None:
        super().__init__()
        self.inp = qnn.QuantIdentity(act_quant=Unsigned, return_quant_tensor=True)
        self.blocks = nn.Sequential(Block(3, 8, a_bits), Block(8, 8, a_bits))
        self.head = conv(8, 6, 1, output_quant=Signed, bias_quant=OwnBias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.inp(x)))


class YoloLike(nn.Module):
    """Two heads, concat, upsample, max pools, depthwise and leaky; weights and activations of `bits`."""

    def __init__(self, bits: int = 8, slope: float = 0.125) -> None:
        super().__init__()
        kind = {"weight_bit_width": bits, "return_quant_tensor": True}
        self.inp = identity()
        self.stem = nn.Sequential(conv(3, 8, stride=2, **kind), nn.LeakyReLU(slope), identity(bit_width=bits))
        self.depthwise = nn.Sequential(conv(8, 8, groups=8, **kind), relu(bit_width=bits), conv(8, 8, 1, **kind))
        self.shared = identity(bit_width=bits)
        self.down = nn.Sequential(nn.MaxPool2d(2), conv(8, 8, **kind), nn.LeakyReLU(slope), self.shared)
        self.pools = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in (3, 5))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.merge = nn.Sequential(conv(32, 8, **kind), relu(bit_width=bits))
        self.heads = nn.ModuleList([conv(24, 6, 1, output_quant=Signed), conv(8, 6, 1, output_quant=Signed)])

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.shared(self.depthwise(self.stem(self.inp(x))))
        coarse = self.down(fine)
        spatial = torch.cat([coarse, *[pool(coarse) for pool in self.pools]], 1)
        merged = self.merge(torch.cat([fine, self.up(spatial)], 1))
        return [self.heads[0](spatial), self.heads[1](merged)]


def values_of(outputs: Any) -> list[Tensor]:
    """Return what a model returns, one tensor or a list, as plain tensors; a QuantTensor is a tuple, too."""
    several = isinstance(outputs, (list, tuple)) and not isinstance(outputs, QuantTensor)
    return [y.value if isinstance(y, QuantTensor) else y for y in (outputs if several else [outputs])]


def trained(model: nn.Module, size: tuple[int, int, int, int] = SIZE, steps: int = 4) -> nn.Module:
    """Return a model after some steps that pull its outputs toward other ones, batch norms merged."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

    def run(count: int) -> None:
        for _ in range(count):
            outputs = values_of(model(torch.rand(size, generator=generator)))
            loss = torch.stack([((y - torch.randn(y.shape, generator=generator)) ** 2).mean() for y in outputs]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    run(steps)
    for module in list(model.modules()):
        if isinstance(module, Block):
            module.merge()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run(2)
    return model.eval()


def codes_of(outputs: Any, graph: IntGraph) -> list[np.ndarray]:
    """Return what a model in float64 returns for one image as codes of the graph's outputs, [K, H, W] each."""
    infos = [graph.tensors[output.tensor] for output in graph.outputs]
    values = [y.detach().numpy() for y in values_of(outputs)]
    return [np.ldexp(x, info.fmt.frac).reshape(info.shape) for x, info in zip(values, infos, strict=True)]


def assert_equal_codes(model: nn.Module, size: tuple[int, int, int, int] = SIZE) -> IntGraph:
    """Check that the integer graph and the engine have the codes of the model in float64; return the graph."""
    generator = torch.Generator().manual_seed(5)
    graph = from_brevitas(model, torch.rand(size))
    exact = copy.deepcopy(model).double()
    engine, fmt = Engine(graph, threads=1), graph.tensors[INPUT].fmt
    images = [torch.rand(size[1:], generator=generator).double().numpy() * 1.5 - 0.25 for _ in range(3)]
    images += [dequantise(codes, fmt.frac) for codes in adversarial_inputs(graph).values()]
    for image in images:
        codes = input_codes(graph, image)
        expected = run_outputs(graph, codes)
        wanted = codes_of(exact(torch.from_numpy(image)[None]), graph)
        for output, found, real, compiled in zip(graph.outputs, expected, wanted, engine.run(codes), strict=True):
            np.testing.assert_array_equal(found, real, err_msg=output.tensor)
            np.testing.assert_array_equal(compiled, found, err_msg=f"engine: {output.tensor}")
    assert any(found.std() > 0 for found in run_outputs(graph, input_codes(graph, images[0]))), (
        "a constant output shows nothing"
    )
    return graph

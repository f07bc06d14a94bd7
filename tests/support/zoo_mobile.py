# SPDX-License-Identifier: Apache-2.0
"""Small mobile networks of published shapes: inverted residuals, squeeze-and-excitation, ghost modules."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from support.zoo_classifiers import ConvNorm
from torch import Tensor, nn


class Squeeze(nn.Module):
    """Squeeze-and-excitation (Hu et al., CVPR 2018) with a gate of choice."""

    def __init__(self, channels: int, gate: type = nn.Sigmoid, act: type = nn.ReLU, linear: bool = False):
        super().__init__()
        hidden = max(channels // 4, 2)
        self.linear = linear
        self.reduce = nn.Linear(channels, hidden) if linear else nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Linear(hidden, channels) if linear else nn.Conv2d(hidden, channels, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x: Tensor) -> Tensor:
        if self.linear:
            pooled = F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)
            return x * self.gate(self.expand(self.act(self.reduce(pooled)))).view(x.size(0), x.size(1), 1, 1)
        pooled = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.expand(self.act(self.reduce(pooled))))


class StochasticDepth(nn.Module):
    """Drops whole samples while training (Huang et al., ECCV 2016); the identity in evaluation."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = torch.rand(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device) >= self.rate
        return x * keep / (1 - self.rate)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, optional squeeze, linear projection (Sandler et al., CVPR 2018)."""

    def __init__(
        self, cin: int, cout: int, hidden: int, stride: int = 1, k: int = 3, *, act: type, se: Callable | None
    ):
        super().__init__()
        self.use_residual = stride == 1 and cin == cout
        self.body = nn.Sequential(
            *([ConvNorm(cin, hidden, act=act)] if hidden != cin else []),
            ConvNorm(hidden, hidden, k, stride, hidden, act=act),
            *([] if se is None else [se(hidden)]),
            ConvNorm(hidden, cout, act=None),
        )
        self.drop = StochasticDepth(0.2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + self.drop(y) if self.use_residual else y


class Mobile(nn.Module):
    """Stem, inverted residuals, last convolution, linear head."""

    def __init__(self, width: int, act: type, se: Callable | None = None, classes: int = 5):
        super().__init__()
        w = width
        self.features = nn.Sequential(
            ConvNorm(3, w, 3, 2, act=act),
            InvertedResidual(w, w, w, 1, 3, act=act, se=None),
            InvertedResidual(w, 2 * w, 3 * w, 2, 3, act=act, se=se),
            InvertedResidual(2 * w, 2 * w, 6 * w, 1, 5, act=act, se=se),
            InvertedResidual(2 * w, 3 * w, 6 * w, 2, 5, act=act, se=se),
            InvertedResidual(3 * w, 3 * w, 6 * w, 1, 3, act=act, se=se),
            ConvNorm(3 * w, 6 * w, act=act),
        )
        self.classifier = nn.Sequential(nn.Linear(6 * w, 4 * w), act(), nn.Dropout(0.2), nn.Linear(4 * w, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


def mobilenet_v2(width: int) -> nn.Module:
    """MobileNetV2's blocks."""
    return Mobile(width, nn.ReLU6)


def mobilenet_v3(width: int) -> nn.Module:
    """MobileNetV3's blocks: hardswish, squeeze gated by hardsigmoid (Howard et al., ICCV 2019)."""
    return Mobile(width, nn.Hardswish, lambda channels: Squeeze(channels, nn.Hardsigmoid))


def mobilenet_v3_linear(width: int) -> nn.Module:
    """The same with the squeeze in linear layers, as the original code has it."""
    return Mobile(width, nn.Hardswish, lambda channels: Squeeze(channels, nn.Hardsigmoid, linear=True))


def efficientnet(width: int) -> nn.Module:
    """EfficientNet's blocks: SiLU everywhere, squeeze gated by sigmoid (Tan & Le, ICML 2019)."""
    return Mobile(width, nn.SiLU, lambda channels: Squeeze(channels, nn.Sigmoid, nn.SiLU))


class Ghost(nn.Module):
    """Half of the maps by a convolution, half from those by a cheap depthwise one (Han et al., CVPR 2020)."""

    def __init__(self, cin: int, cout: int, relu: bool = True):
        super().__init__()
        self.cout = cout
        half = -(-cout // 2)
        act = nn.ReLU if relu else None
        self.primary, self.cheap = ConvNorm(cin, half, act=act), ConvNorm(half, half, 3, 1, half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary(x)
        return torch.cat([primary, self.cheap(primary)], dim=1)[:, : self.cout, :, :]


class GhostBottleneck(nn.Module):
    """Two ghost modules, a depthwise convolution where the stride is 2, a squeeze."""

    def __init__(self, cin: int, hidden: int, cout: int, stride: int):
        super().__init__()
        self.expand = Ghost(cin, hidden)
        self.down = ConvNorm(hidden, hidden, 3, 2, hidden, act=None) if stride == 2 else nn.Identity()
        self.squeeze = Squeeze(hidden, nn.Hardsigmoid)
        self.project = Ghost(hidden, cout, relu=False)
        self.skip: nn.Module = nn.Identity()
        if stride == 2 or cin != cout:
            self.skip = nn.Sequential(ConvNorm(cin, cin, 3, stride, cin, act=None), ConvNorm(cin, cout, act=None))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.squeeze(self.down(self.expand(x)))) + self.skip(x)


class GhostNet(nn.Module):
    """Stem, ghost bottlenecks (one of odd width, so that the slice cuts), linear head."""

    def __init__(self, width: int, classes: int = 5):
        super().__init__()
        odd = 2 * width + 1
        self.stem = ConvNorm(3, width, 3, 2)
        self.blocks = nn.Sequential(
            GhostBottleneck(width, 2 * width, width, 1),
            GhostBottleneck(width, 3 * width, odd, 2),
            GhostBottleneck(odd, 4 * width, odd, 1),
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(odd, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))

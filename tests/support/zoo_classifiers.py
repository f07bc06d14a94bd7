# SPDX-License-Identifier: Apache-2.0
"""Small classifiers of published shapes for tests of channel graphs: residual, dense, shuffled, grouped, flattened."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNorm(nn.Sequential):
    """A convolution without bias, a batch norm and an activation."""

    def __init__(
        self, cin: int, cout: int, k: int = 1, stride: int = 1, groups: int = 1, *, act: type | None = nn.ReLU
    ):
        layers = [nn.Conv2d(cin, cout, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)]
        super().__init__(*layers, *([] if act is None else [act()]))


class Basic(nn.Module):
    """Two 3x3 convolutions beside an identity or a projection (He et al., CVPR 2016)."""

    def __init__(self, cin: int, width: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(ConvNorm(cin, width, 3, stride), ConvNorm(width, width, 3, act=None))
        self.skip = nn.Identity() if stride == 1 and cin == width else ConvNorm(cin, width, 1, stride, act=None)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y += self.skip(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1; with `groups` the block of ResNeXt (Xie et al., CVPR 2017)."""

    def __init__(self, cin: int, width: int, stride: int, groups: int = 1):
        super().__init__()
        out = 2 * width
        self.reduce = ConvNorm(cin, width)
        self.spatial = ConvNorm(width, width, 3, stride, groups)
        self.expand = ConvNorm(width, out, act=None)
        self.skip = nn.Identity() if stride == 1 and cin == out else ConvNorm(cin, out, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.expand(self.spatial(self.reduce(x))) + self.skip(x))


class ResNet(nn.Module):
    """Stem, stages, mean over the map, one fully connected layer."""

    def __init__(self, width: int, bottleneck: bool = False, groups: int = 1, classes: int = 5):
        super().__init__()
        self.stem = nn.Sequential(ConvNorm(3, width, 7, 2), nn.MaxPool2d(3, 2, 1))
        blocks: list[nn.Module] = []
        channels = width
        for stage in range(2):
            for i in range(2):
                out, stride = width * 2**stage, 2 if stage and i == 0 else 1
                block = Bottleneck(channels, out, stride, groups) if bottleneck else Basic(channels, out, stride)
                blocks.append(block)
                channels = 2 * out if bottleneck else out
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


class Dense(nn.Module):
    """Batch norm and activation BEFORE the convolution, its output concatenated (Huang et al., CVPR 2017)."""

    def __init__(self, cin: int, growth: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(cin), nn.Conv2d(cin, 2 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, maps: list[Tensor]) -> Tensor:
        y = self.conv1(self.relu(self.norm1(torch.cat(maps, 1))))
        return self.conv2(self.relu(self.norm2(y)))


class DenseNet(nn.Module):
    """Two dense blocks and a transition."""

    def __init__(self, width: int, classes: int = 5):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.first = nn.ModuleList([Dense(width + i * width // 2, width // 2) for i in range(3)])
        channels = width + 3 * (width // 2)
        self.transition = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2, 2)
        )
        channels //= 2
        self.second = nn.ModuleList([Dense(channels + i * width // 2, width // 2) for i in range(2)])
        channels += 2 * (width // 2)
        self.norm, self.fc = nn.BatchNorm2d(channels), nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, last in ((self.first, False), (self.second, True)):
            maps = [x]
            for layer in block:
                maps.append(layer(maps))
            x = torch.cat(maps, 1)
            x = x if last else self.transition(x)
        return self.fc(torch.relu(self.norm(x)).mean((2, 3)))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """[N, C, H, W] with channels (g, c) to channels (c, g) (Zhang et al., CVPR 2018)."""
    n, c, h, w = x.size()
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


class ShuffleUnit(nn.Module):
    """A unit of ShuffleNetV2 (Ma et al., ECCV 2018): half of the channels pass unchanged."""

    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        half = cout // 2
        self.stride = stride
        self.left = nn.Sequential()
        if stride == 2:
            self.left = nn.Sequential(ConvNorm(cin, cin, 3, 2, cin, act=None), ConvNorm(cin, half))
        self.right = nn.Sequential(
            ConvNorm(cin if stride == 2 else half, half),
            ConvNorm(half, half, 3, stride, half, act=None),
            ConvNorm(half, half),
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1) if self.stride == 1 else (x, x)
        return channel_shuffle(torch.cat((self.left(left), self.right(right)), dim=1), 2)


class ShuffleNet(nn.Module):
    """Stem, two stages, a last convolution."""

    def __init__(self, width: int, classes: int = 5):
        super().__init__()
        self.stem = ConvNorm(3, width, 3, 2)
        self.stages = nn.Sequential(
            ShuffleUnit(width, 2 * width, 2),
            ShuffleUnit(2 * width, 2 * width, 1),
            ShuffleUnit(2 * width, 2 * width, 1),
            ShuffleUnit(2 * width, 4 * width, 2),
            ShuffleUnit(4 * width, 4 * width, 1),
        )
        self.last, self.fc = ConvNorm(4 * width, 4 * width), nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.stages(self.stem(x))).mean([2, 3]))


class Flattened(nn.Module):
    """Convolutions with biases and PReLU, then the whole map into linear layers (as AlexNet and VGG do)."""

    def __init__(self, width: int, classes: int = 5):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.PReLU(), nn.AdaptiveMaxPool2d(3),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.5), nn.Linear(18 * width, 4 * width), nn.BatchNorm1d(4 * width), nn.ELU(),
            nn.Linear(4 * width, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class Scaled(nn.Module):
    """A residual block of ConvNeXt's kind: parameters of the module itself scale and shift the channels."""

    def __init__(self, width: int, classes: int = 5):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.up, self.down = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, width).view(1, width, 1, 1))
        self.register_buffer("shift", torch.linspace(-1, 1, width).view(width, 1, 1))
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.scale * self.down(nn.functional.gelu(self.up(self.mix(x)))) + self.shift
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class LiteralShuffle(nn.Module):
    """Grouped convolutions and a shuffle whose sizes are numbers in the code (ShuffleNet, Zhang et al., CVPR 2018)."""

    def __init__(self, width: int, classes: int = 5):
        super().__init__()
        self.width = width
        self.stem, self.first = ConvNorm(3, width, 3, 2), ConvNorm(width, width, 1, groups=2)
        self.depthwise, self.second = ConvNorm(width, width, 3, 1, width, act=None), ConvNorm(width, width, 1, groups=2)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.first(x)
        h, w = y.shape[-2:]
        y = y.reshape(-1, 2, self.width // 2, h, w).permute(0, 2, 1, 3, 4).reshape(-1, self.width, h, w)
        y = self.second(self.depthwise(y)) + x
        return self.fc(y.mean(3).mean(2))

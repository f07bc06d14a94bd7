# SPDX-License-Identifier: Apache-2.0
"""Small detectors of published shapes: blocks of YOLOv5, YOLOv8 and CSPNet, a path aggregation neck, three heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from support.zoo_classifiers import ConvNorm
from torch import Tensor, nn


class Conv(ConvNorm):
    """With SiLU."""

    def __init__(self, cin: int, cout: int, k: int = 1, stride: int = 1):
        super().__init__(cin, cout, k, stride, act=nn.SiLU)


class Residual(nn.Module):
    """Two convolutions, with or without the shortcut."""

    def __init__(self, channels: int, shortcut: bool):
        super().__init__()
        self.first, self.second, self.shortcut = Conv(channels, channels, 3), Conv(channels, channels, 3), shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x)) if self.shortcut else self.second(self.first(x))


class C3(nn.Module):
    """Two branches by two convolutions, joined by a third (YOLOv5)."""

    def __init__(self, cin: int, cout: int, shortcut: bool = True):
        super().__init__()
        half = cout // 2
        self.deep = nn.Sequential(Conv(cin, half), Residual(half, shortcut), Residual(half, shortcut))
        self.flat, self.join = Conv(cin, half), Conv(2 * half, cout)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat((self.deep(x), self.flat(x)), 1))


class C2f(nn.Module):
    """One convolution cut in halves; the second half goes on, all results are concatenated (YOLOv8)."""

    def __init__(self, cin: int, cout: int, shortcut: bool = True, by_split: bool = False):
        super().__init__()
        self.half, self.by_split = cout // 2, by_split
        self.open = Conv(cin, 2 * self.half)
        self.blocks = nn.ModuleList([Residual(self.half, shortcut) for _ in range(2)])
        self.join = Conv(4 * self.half, cout)

    def forward(self, x: Tensor) -> Tensor:
        maps = list(self.open(x).split((self.half, self.half), 1) if self.by_split else self.open(x).chunk(2, 1))
        maps.extend(block(maps[-1]) for block in self.blocks)
        return self.join(torch.cat(maps, 1))


class SPPF(nn.Module):
    """Three pools in a row, all concatenated."""

    def __init__(self, channels: int):
        super().__init__()
        self.open, self.join = Conv(channels, channels // 2), Conv(2 * channels, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.open(x)
        y = self.pool(x)
        z = self.pool(y)
        return self.join(torch.cat((x, y, z, self.pool(z)), 1))


class Focus(nn.Module):
    """Space to depth by four strided slices."""

    def __init__(self, cout: int):
        super().__init__()
        self.conv = Conv(12, cout, 3)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[..., i::2, j::2] for j in range(2) for i in range(2)]
        return self.conv(torch.cat(corners, 1))


class Detector(nn.Module):
    """Backbone, SPPF, path aggregation up and down (Liu et al., CVPR 2018), three heads of linear convolutions."""

    def __init__(self, width: int, block: object, stem: nn.Module, classes: int = 2):
        super().__init__()
        w = width
        self.stem = stem
        self.stage3 = nn.Sequential(Conv(w, 2 * w, 3, 2), block(2 * w, 2 * w, True))
        self.stage4 = nn.Sequential(Conv(2 * w, 4 * w, 3, 2), block(4 * w, 4 * w, True))
        self.stage5 = nn.Sequential(Conv(4 * w, 4 * w, 3, 2), block(4 * w, 4 * w, True), SPPF(4 * w))
        self.up = nn.Upsample(scale_factor=2)
        self.up4, self.up3 = block(8 * w, 4 * w, False), block(6 * w, 2 * w, False)
        self.down3, self.down4 = Conv(2 * w, 2 * w, 3, 2), Conv(4 * w, 4 * w, 3, 2)
        self.out4, self.out5 = block(6 * w, 4 * w, False), block(8 * w, 4 * w, False)
        self.heads = nn.ModuleList([nn.Conv2d(c, 3 * (5 + classes), 1) for c in (2 * w, 4 * w, 4 * w)])

    def forward(self, x: Tensor) -> list[Tensor]:
        p3 = self.stage3(self.stem(x))
        p4 = self.stage4(p3)
        p5 = self.stage5(p4)
        u4 = self.up4(torch.cat([self.up(p5), p4], 1))
        u3 = self.up3(torch.cat([F.interpolate(u4, scale_factor=2.0, mode="nearest"), p3], 1))
        d4 = self.out4(torch.cat([self.down3(u3), u4], 1))
        d5 = self.out5(torch.cat([self.down4(d4), p5], 1))
        return [head(y) for head, y in zip(self.heads, (u3, d4, d5), strict=True)]


def yolov5(width: int) -> nn.Module:
    """C3 blocks behind a Focus stem."""
    return Detector(width, C3, Focus(width))


def yolov8(width: int) -> nn.Module:
    """C2f blocks, halves by `chunk`."""
    return Detector(width, C2f, Conv(3, width, 3, 2))


def yolov8_split(width: int) -> nn.Module:
    """C2f blocks, halves by `split((c, c), 1)`."""
    return Detector(width, lambda cin, cout, shortcut: C2f(cin, cout, shortcut, True), Conv(3, width, 3, 2))


class DecodedHead(nn.Module):
    """YOLOv8's head: boxes as distributions over 4 bins, classes beside them, anchors flattened and concatenated."""

    def __init__(self, channels: int, classes: int = 3):
        super().__init__()
        self.box = nn.Sequential(Conv(channels, channels, 3), nn.Conv2d(channels, 16, 1))
        self.cls = nn.Sequential(Conv(channels, channels, 3), nn.Conv2d(channels, classes, 1))
        self.classes = classes
        self.register_buffer("bins", torch.arange(4.0).view(1, 4, 1, 1))

    def forward(self, maps: list[Tensor]) -> Tensor:
        joined = [torch.cat((self.box(x), self.cls(x)), 1) for x in maps]
        flat = torch.cat([y.view(y.shape[0], 16 + self.classes, -1) for y in joined], 2)
        box, cls = flat.split((16, self.classes), 1)
        n, _, anchors = box.shape
        box = (box.view(n, 4, 4, anchors).transpose(2, 1).softmax(1) * self.bins.view(1, 4, 1, 1)).sum(1)
        return torch.cat((box, cls.sigmoid()), 1)


class Decoded(nn.Module):
    """A detector that returns decoded boxes."""

    def __init__(self, width: int):
        super().__init__()
        self.stem, self.stage = Conv(3, width, 3, 2), C2f(width, 2 * width)
        self.down = nn.Sequential(Conv(2 * width, 2 * width, 3, 2), C2f(2 * width, 2 * width))
        self.head = DecodedHead(2 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage(self.stem(x))
        return self.head([x, self.down(x)])


class PartialStage(nn.Module):
    """The first stage form of CSPNet (Wang et al., CVPRW 2020): the map is sliced, one part passes unchanged."""

    def __init__(self, channels: int):
        super().__init__()
        self.half = channels // 2
        self.blocks = nn.Sequential(*[Residual(self.half, True) for _ in range(2)])
        self.transition, self.join = Conv(self.half, self.half), Conv(2 * self.half, channels)

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = x[:, : self.half], x[:, self.half :]
        return self.join(torch.cat([kept, self.transition(self.blocks(worked))], dim=1))


class CSPNet(nn.Module):
    """Two partial stages; the passthrough of YOLOv2 by `pixel_unshuffle`, the way back by `PixelShuffle`."""

    def __init__(self, width: int, classes: int = 2):
        super().__init__()
        self.stem, self.first = Conv(3, width, 3, 2), PartialStage(width)
        self.down, self.second = Conv(width, 2 * width, 3, 2), PartialStage(2 * width)
        self.join = Conv(6 * width, 4 * width)
        self.shuffle = nn.PixelShuffle(2)
        self.head = nn.Conv2d(2 * width, 3 * (5 + classes), 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.first(self.stem(x))
        coarse = self.second(self.down(fine))
        coarse = self.join(torch.cat([coarse, F.pixel_unshuffle(fine, 2)], dim=1))
        return self.head(torch.cat([self.shuffle(coarse), fine], 1))

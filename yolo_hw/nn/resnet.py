# SPDX-License-Identifier: Apache-2.0
"""Residual networks for CIFAR-sized images: the small reference classifiers of compression papers.

He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016. ResNet-18/34/50/101 are the ImageNet
networks of table 1 with a 3x3 stem of stride 1 and the pooling after it, so the four stages of a 32x32 image have maps
of 16, 8, 4 and 2 pixels. ResNet-20 is the CIFAR network of section 4.2 with parameter-free shortcuts.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolo_hw.errors import WeightsError

Statistics = tuple[float, float, float]

CIFAR_MEAN: Statistics = (0.4914, 0.4822, 0.4465)
"""Of the pixels of CIFAR-10's training images, in [0, 1]."""
CIFAR_STD: Statistics = (0.2470, 0.2435, 0.2616)
IMAGENET_MEAN: Statistics = (0.485, 0.456, 0.406)
"""Of the pixels of ImageNet's training images, in [0, 1]."""
IMAGENET_STD: Statistics = (0.229, 0.224, 0.225)


class Standardise(nn.Module):
    """``(x - mean) / std`` per channel, so that every network of this library takes images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Keep the figures outside of the state dict: they are part of the architecture."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(tuple(mean)).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std)).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same shape."""
        return (x - self.mean) / self.std


class PadShortcut(nn.Module):
    """Option A of section 3.3: every `stride`-th pixel, and zero channels before and after."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """Split the new channels evenly."""
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, K, H / stride, W / stride]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Option B of section 3.3: a 1x1 convolution."""
    conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


Shortcut = Callable[[int, int, int], nn.Module]
"""(input channels, output channels, stride) to a module."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (figure 5, left)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        """Build the block; the shortcut is a module only where shapes change."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        changes = stride != 1 or in_channels != channels
        self.downsample = shortcut(in_channels, channels, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, K, H / stride, W / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return cast(Tensor, self.relu(y + self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions (figure 5, right), the stride in the 3x3 one."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        """Build the block; the shortcut is a module only where shapes change."""
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        changes = stride != 1 or in_channels != out_channels
        self.downsample = shortcut(in_channels, out_channels, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, 4 K, H / stride, W / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return cast(Tensor, self.relu(y + self.downsample(x)))


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """A residual network."""

    block: type[BasicBlock] | type[Bottleneck]
    """What its stages are made of."""
    depths: Sequence[int]
    """Blocks per stage."""
    widths: Sequence[int]
    """Channels per stage, before the block's expansion; each stage but the first halves the map."""
    pool_stem: bool
    """Whether a 3x3 pooling of stride 2 follows the stem."""
    shortcut: Shortcut
    """What changes shapes beside a block."""
    mean: Statistics = CIFAR_MEAN
    """Of the pixels, in [0, 1]."""
    std: Statistics = CIFAR_STD


class ResNet(nn.Module):
    """Stem, stages ``layer1``, ``layer2``, ..., mean over the map, one fully connected layer ``fc``.

    The names of parameters are those of torchvision's ResNet.
    """

    def __init__(self, config: ResNetConfig, classes: int) -> None:
        """Build the network with He initialisation of the convolutions.

        Args:
            config: The architecture.
            classes: Outputs.
        """
        super().__init__()
        self.standardise = Standardise(config.mean, config.std)
        channels = config.widths[0]
        self.conv1 = nn.Conv2d(3, channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if config.pool_stem else nn.Identity()
        stages = []
        for i, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            blocks: list[nn.Module] = []
            for k in range(depth):
                stride = 2 if i and k == 0 else 1
                blocks.append(config.block(channels, width, stride, config.shortcut))
                channels = width * config.block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            stages.append(f"layer{i + 1}")
        self._stages = tuple(stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] in [0, 1] to logits [N, classes]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.standardise(x)))))
        for name in self._stages:
            x = self.get_submodule(name)(x)
        return cast(Tensor, self.fc(self.avgpool(x).flatten(1)))


def resnet18(classes: int = 10) -> ResNet:
    """ResNet-18 for CIFAR: 11.17 M parameters, 140.2 M multiply-accumulates at 32x32."""
    return _pooled(BasicBlock, (2, 2, 2, 2), classes)


def resnet34(classes: int = 10) -> ResNet:
    """ResNet-34 for CIFAR: 21.28 M parameters, 291.2 M multiply-accumulates at 32x32."""
    return _pooled(BasicBlock, (3, 4, 6, 3), classes)


def resnet50(classes: int = 10) -> ResNet:
    """ResNet-50 for CIFAR: 23.52 M parameters, 325.8 M multiply-accumulates at 32x32."""
    return _pooled(Bottleneck, (3, 4, 6, 3), classes)


def resnet101(classes: int = 10) -> ResNet:
    """ResNet-101 for CIFAR: 42.51 M parameters, 628.8 M multiply-accumulates at 32x32."""
    return _pooled(Bottleneck, (3, 4, 23, 3), classes)


def resnet20(classes: int = 10) -> ResNet:
    """ResNet-20 for CIFAR (section 4.2, n = 3): 0.27 M parameters, 40.6 M multiply-accumulates at 32x32."""
    config = ResNetConfig(
        block=BasicBlock,
        depths=(3, 3, 3),
        widths=(16, 32, 64),
        pool_stem=False,
        shortcut=PadShortcut,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    return ResNet(config, classes)


RESNETS: dict[str, Callable[[int], ResNet]] = {
    f"resnet{depth}": build
    for depth, build in ((18, resnet18), (20, resnet20), (34, resnet34), (50, resnet50), (101, resnet101))
}
"""Name -> function of the number of classes."""


def _pooled(block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int], classes: int) -> ResNet:
    widths = (64, 128, 256, 512)
    config = ResNetConfig(block=block, depths=depths, widths=widths, pool_stem=True, shortcut=_projection)
    return ResNet(config, classes)


def load_resnet(model: ResNet, path: str | Path) -> None:
    """Load a checkpoint into a network, in place; nothing in the file is executed.

    A state dict, alone or under ``state_dict``, is taken; the prefix ``module.`` of data-parallel training is dropped,
    and a last layer called ``linear`` is ``fc``.

    Args:
        model: The network the checkpoint belongs to.
        path: The file.

    Raises:
        WeightsError: The file is missing, damaged, or belongs to another network.
    """
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise WeightsError(f"{path}: not a readable checkpoint: {reason}") from None
    state = document.get("state_dict", document) if isinstance(document, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: must hold a state dict of tensors, got {type(state).__name__}")
    renamed = {_plain_name(str(key)): value for key, value in state.items()}
    expected = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    for key, value in expected.items():
        found = tuple(renamed[key].shape) if key in renamed else "nothing"
        if found != tuple(value.shape):
            raise WeightsError(f"{path}: {key} must have shape {tuple(value.shape)}, found {found}")
    unknown = sorted(key for key in renamed if key not in model.state_dict())
    if unknown:
        raise WeightsError(f"{path}: {unknown[0]} does not belong to this network")
    model.load_state_dict(renamed, strict=False)


def _plain_name(key: str) -> str:
    key = key.removeprefix("module.")
    return f"fc.{key.removeprefix('linear.')}" if key.startswith("linear.") else key

# SPDX-License-Identifier: Apache-2.0
"""Single convolution layers of published networks, and their sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ConvLayer:
    """A convolution of stride 1 and batch 1 that keeps the map's size.

    Attributes:
        network: Where it is from.
        c: Input channels.
        k: Output channels.
        size: Kernel.
        map: Height and width.
    """

    network: str
    c: int
    k: int
    size: int
    map: int

    @property
    def name(self) -> str:
        """For example ``64->128 3x3 @52``."""
        return f"{self.c}->{self.k} {self.size}x{self.size} @{self.map}"

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.c * self.k * self.size**2 * self.map**2

    def elements(self) -> int:
        """Numbers read and written at least: input, weights, biases, output."""
        return (self.c + self.k) * self.map**2 + self.k * (self.c * self.size**2 + 1)

    def weight(self) -> FloatArray:
        """[K, C, R, S] normal values that keep the variance."""
        values = np.random.default_rng(0).standard_normal((self.k, self.c, self.size, self.size), np.float32)
        return values / np.float32(self.c**0.5 * self.size)

    def bias(self) -> FloatArray:
        """[K] small values."""
        return np.float32(0.1) * np.random.default_rng(1).standard_normal(self.k, np.float32)

    def image(self) -> FloatArray:
        """[1, C, H, W] normal values."""
        return np.random.default_rng(2).standard_normal((1, self.c, self.map, self.map), np.float32)


def _layers(network: str, *sizes: tuple[int, int, int, int]) -> tuple[ConvLayer, ...]:
    return tuple(ConvLayer(network, *size) for size in sizes)


YOLOV3_TINY = _layers(
    "YOLOv3-tiny",
    (3, 16, 3, 416), (16, 32, 3, 208), (32, 64, 3, 104), (64, 128, 3, 52), (128, 256, 3, 26), (256, 512, 3, 13),
    (512, 1024, 3, 13), (1024, 256, 1, 13), (256, 512, 3, 13), (512, 255, 1, 13), (256, 128, 1, 13), (384, 256, 3, 26),
    (256, 255, 1, 26),
)  # fmt: skip
"""All thirteen convolutions."""

SPARSE = (
    *_layers(
        "YOLOv3-tiny",
        (16, 32, 3, 208), (32, 64, 3, 104), (64, 128, 3, 52), (128, 256, 3, 26), (256, 512, 3, 13),
        (512, 1024, 3, 13), (1024, 256, 1, 13), (384, 256, 3, 26),
    ),
    *_layers(
        "YOLOv3",
        (64, 128, 3, 104), (128, 256, 3, 52), (256, 512, 3, 26),
        (256, 128, 1, 52), (512, 256, 1, 26), (1024, 512, 1, 13),
    ),
    *_layers("Yolo-Fastest", (24, 136, 1, 40), (136, 24, 1, 40), (48, 224, 1, 20)),
)  # fmt: skip
"""The layers that pruning is measured on."""

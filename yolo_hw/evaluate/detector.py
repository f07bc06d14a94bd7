# SPDX-License-Identifier: Apache-2.0
"""One way to run detection, whatever computes the head maps: the float model or the integer engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from yolo_hw.darknet.layers import HeadSpec, Shape
from yolo_hw.data.image import ImageArray, read_image
from yolo_hw.data.preprocess import Resize, fit_image
from yolo_hw.errors import DataError, YoloHwError
from yolo_hw.nn.darknet import Darknet
from yolo_hw.nn.heads import decode_heads
from yolo_hw.nn.nms import Detections, NmsConfig, non_maximum_suppression


class HeadRunner(Protocol):
    """Computes raw head maps of prepared images."""

    @property
    def input_shape(self) -> Shape:
        """Shape of the network's input."""

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """The heads, in the order of the maps."""

    def run(self, images: npt.NDArray[np.uint8]) -> list[Tensor]:
        """[N, H, W, C] uint8 to one float map [N, K, h, w] per head."""


class FloatRunner:
    """Runs the torch model on ``pixels / 255``."""

    def __init__(self, model: Darknet, device: str = "cpu") -> None:
        """Move the model to `device` and switch it to evaluation."""
        if not model.network.heads:
            raise YoloHwError(f"{model.network.name}: the network has no detection head")
        self.model = model.to(device).eval()
        self.device = device

    @property
    def input_shape(self) -> Shape:
        """Shape of the network's input."""
        return self.model.network.input

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """The model's heads."""
        return tuple(head.spec for head in self.model.network.heads)

    def run(self, images: npt.NDArray[np.uint8]) -> list[Tensor]:
        """See `HeadRunner.run`."""
        x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            return [y.cpu() for y in self.model(x)]


@dataclass(frozen=True)
class DetectorConfig:
    """How images are prepared and detections selected."""

    resize: Resize = Resize.STRETCH
    nms: NmsConfig = field(default_factory=NmsConfig)
    batch: int = 8
    """Images per run."""


@dataclass(frozen=True)
class ImageResult:
    """What became of one image file: detections in image pixels, or the reason it was skipped."""

    path: Path
    image: ImageArray | None
    detections: Detections | None
    error: str = ""


def detect_files(runner: HeadRunner, paths: Sequence[Path], config: DetectorConfig) -> Iterator[ImageResult]:
    """Detect objects in image files, in order.

    Args:
        runner: The network.
        paths: Image files.
        config: Preparation and selection.

    Yields:
        One result per path; an unreadable image gives a result with `error` and does not stop the run.
    """
    for start in range(0, len(paths), config.batch):
        loaded = [_load(path) for path in paths[start : start + config.batch]]
        images = [image for image in loaded if isinstance(image, np.ndarray)]
        found = iter(detect_images(runner, images, config))
        for path, image in zip(paths[start : start + config.batch], loaded, strict=True):
            if isinstance(image, str):
                yield ImageResult(path, None, None, image)
            else:
                yield ImageResult(path, image, next(found))


def detect_images(runner: HeadRunner, images: Sequence[ImageArray], config: DetectorConfig) -> list[Detections]:
    """Detect objects in images of any size as one batch; boxes are in pixels of each image."""
    if not images:
        return []
    prepared = [fit_image(image, runner.input_shape, config.resize) for image in images]
    maps = runner.run(np.stack([image for image, _ in prepared]))
    candidates = decode_heads(maps, runner.heads, runner.input_shape)
    detections = non_maximum_suppression(candidates, config.nms)
    return [
        Detections(placement.to_image(d.boxes), d.scores, d.classes)
        for d, (_, placement) in zip(detections, prepared, strict=True)
    ]


def _load(path: Path) -> ImageArray | str:
    try:
        return read_image(path)
    except DataError as error:
        return str(error)

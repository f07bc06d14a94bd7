# SPDX-License-Identifier: Apache-2.0
"""One way to run detection, whatever computes the head maps: the float model or the integer engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import perf_counter
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

    def __init__(self, model: Darknet, device: str | None = None) -> None:
        """Switch the model to evaluation and move it to `device`; None leaves it where it is."""
        if not model.network.heads:
            raise YoloHwError(f"{model.network.name}: the network has no detection head")
        self.model = (model if device is None else model.to(device)).eval()

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
        device = next(self.model.parameters(), torch.empty(0)).device
        x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            return [y.cpu() for y in self.model(x)]


@dataclass(frozen=True)
class DetectorConfig:
    """How images are prepared and detections selected."""

    resize: Resize = Resize.STRETCH
    nms: NmsConfig = field(default_factory=NmsConfig)
    batch: int = 8
    """Images per run."""

    def __post_init__(self) -> None:
        """Check the range."""
        if self.batch < 1:
            raise YoloHwError(f"DetectorConfig: batch must be at least 1, got {self.batch}")


@dataclass
class StageTimes:
    """Seconds spent so far in each stage of a detection run.

    Attributes:
        images: Images that were read.
        read: Reading and decoding files.
        preprocess: Resizing and stacking into a batch of bytes.
        inference: The runner, from bytes to raw head maps in main memory, its own conversion of the bytes included.
        postprocess: Decoding boxes, suppression, mapping boxes to image pixels.
    """

    images: int = 0
    read: float = 0.0
    preprocess: float = 0.0
    inference: float = 0.0
    postprocess: float = 0.0

    def add(self, other: StageTimes) -> None:
        """Add the times of another part of the run."""
        for stage in vars(self):
            setattr(self, stage, getattr(self, stage) + getattr(other, stage))

    def milliseconds(self) -> dict[str, float]:
        """Return the mean milliseconds per image of every stage."""
        count = max(self.images, 1)
        return {stage: 1e3 * seconds / count for stage, seconds in vars(self).items() if stage != "images"}


@dataclass(frozen=True)
class ImageResult:
    """What became of one image file: detections in image pixels, or the reason it was skipped."""

    path: Path
    image: ImageArray | None
    detections: Detections | None
    error: str = ""


def detect_files(
    runner: HeadRunner, paths: Sequence[Path], config: DetectorConfig, times: StageTimes | None = None
) -> Iterator[ImageResult]:
    """Detect objects in image files, in order.

    Args:
        runner: The network.
        paths: Image files.
        config: Preparation and selection.
        times: What the run takes is added to it.

    Yields:
        One result per path; an unreadable image gives a result with `error` and does not stop the run.
    """
    times = StageTimes() if times is None else times
    for start in range(0, len(paths), config.batch):
        begin = perf_counter()
        loaded = [_load(path) for path in paths[start : start + config.batch]]
        times.read += perf_counter() - begin
        images = [image for image in loaded if isinstance(image, np.ndarray)]
        found = iter(detect_images(runner, images, config, times))
        for path, image in zip(paths[start : start + config.batch], loaded, strict=True):
            if isinstance(image, str):
                yield ImageResult(path, None, None, image)
            else:
                yield ImageResult(path, image, next(found))


def detect_images(
    runner: HeadRunner, images: Sequence[ImageArray], config: DetectorConfig, times: StageTimes | None = None
) -> list[Detections]:
    """Detect objects in images of any size as one batch; boxes are in pixels of each image.

    Args:
        runner: The network.
        images: [H, W, 3] uint8 RGB each.
        config: Preparation and selection.
        times: What the run takes is added to it.

    Returns:
        Detections per image, best first.
    """
    if not images:
        return []
    ticks = [perf_counter()]
    prepared = [fit_image(image, runner.input_shape, config.resize) for image in images]
    batch = np.stack([image for image, _ in prepared])
    ticks.append(perf_counter())
    maps = runner.run(batch)
    ticks.append(perf_counter())
    candidates = decode_heads(maps, runner.heads, runner.input_shape)
    detections = non_maximum_suppression(candidates, config.nms)
    found = [
        Detections(placement.to_image(d.boxes), d.scores, d.classes)
        for d, (_, placement) in zip(detections, prepared, strict=True)
    ]
    ticks.append(perf_counter())
    if times is not None:
        times.add(StageTimes(len(images), 0.0, *(after - before for before, after in pairwise(ticks))))
    return found


def _load(path: Path) -> ImageArray | str:
    try:
        return read_image(path)
    except DataError as error:
        return str(error)

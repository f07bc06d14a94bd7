# SPDX-License-Identifier: Apache-2.0
"""Random changes of a training image that keep its boxes true: mirroring, transposing, colour jitter."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from yolo_hw.data.image import ImageArray
from yolo_hw.errors import DataError


@dataclass(frozen=True)
class LabelledImage:
    """An image with its objects.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        boxes: [B, 4] float64 x1, y1, x2, y2 in pixels.
        labels: [B] int64.
    """

    image: ImageArray
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How much a training image may change."""

    flip_x: float = 0.5
    """Chance of exchanging left and right."""
    flip_y: float = 0.0
    """Chance of exchanging top and bottom; right for pictures taken from above."""
    transpose: float = 0.0
    """Chance of exchanging rows and columns; with both flips this gives all turns by 90 degrees."""
    hue: float = 0.015
    """Largest shift of the hue, as a share of the full circle."""
    saturation: float = 0.4
    """Largest relative change of the saturation."""
    value: float = 0.3
    """Largest relative change of the brightness."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("flip_x", "flip_y", "transpose", "saturation", "value"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"AugmentConfig: {name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise DataError(f"AugmentConfig: hue must be in [0, 0.5], got {self.hue}")


NO_AUGMENTATION = AugmentConfig(flip_x=0.0, hue=0.0, saturation=0.0, value=0.0)


def augment(sample: LabelledImage, rng: np.random.Generator, config: AugmentConfig) -> LabelledImage:
    """Change a training image at random; the argument stays as it is.

    Args:
        sample: The image and its boxes.
        rng: Random generator.
        config: Chances and ranges.

    Returns:
        The changed image; transposing exchanges its height and width.
    """
    flip_x, flip_y, transpose = rng.random(3) < [config.flip_x, config.flip_y, config.transpose]
    gains = 1 + rng.uniform(-1, 1, 3) * [0, config.saturation, config.value]
    shift = rng.uniform(-1, 1) * config.hue
    if transpose:
        sample = transposed(sample)
    if flip_x or flip_y:
        sample = flipped(sample, bool(flip_x), bool(flip_y))
    if config.hue or config.saturation or config.value:
        image = jitter_colour(sample.image, float(shift), float(gains[1]), float(gains[2]))
        sample = LabelledImage(image, sample.boxes, sample.labels)
    return sample


def flipped(sample: LabelledImage, flip_x: bool, flip_y: bool) -> LabelledImage:
    """Mirror an image and its boxes: ``x1' = W - x2``, ``x2' = W - x1``, likewise y."""
    height, width = sample.image.shape[:2]
    x1, y1, x2, y2 = sample.boxes.T
    if flip_x:
        x1, x2 = width - x2, width - x1
    if flip_y:
        y1, y2 = height - y2, height - y1
    image = sample.image
    if flip_x or flip_y:
        image = np.asarray(cv2.flip(image, (-1 if flip_y else 1) if flip_x else 0), np.uint8)
    return LabelledImage(image, np.stack([x1, y1, x2, y2], 1), sample.labels)


def transposed(sample: LabelledImage) -> LabelledImage:
    """Exchange rows and columns."""
    image = np.asarray(cv2.transpose(sample.image), np.uint8)
    return LabelledImage(image, sample.boxes[:, [1, 0, 3, 2]], sample.labels)


def jitter_colour(image: ImageArray, hue: float, saturation: float, value: float) -> ImageArray:
    """Shift the hue (a share of the circle) and multiply saturation and value of [H, W, 3] uint8 RGB."""
    h, s, v = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    levels = np.arange(256)
    hues = ((levels + round(hue * 180)) % 180).astype(np.uint8)  # OpenCV counts hue in steps of two degrees
    planes = [cv2.LUT(h, hues)]
    for plane, gain in ((s, saturation), (v, value)):
        planes.append(cv2.LUT(plane, np.clip(np.rint(levels * gain), 0, 255).astype(np.uint8)))
    return np.asarray(cv2.cvtColor(cv2.merge(planes), cv2.COLOR_HSV2RGB), np.uint8)

# SPDX-License-Identifier: Apache-2.0
"""Random changes of a training image that keep its boxes true.

An image is, in this order: laid out with three others (mosaic), scaled, shifted, turned and sheared in one resampling,
blended with another one made the same way (mixup), mirrored, transposed, and its colours are changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from yolo_hw.data.affine import AffineRanges, random_affine, resized, scaled, shifted, warped
from yolo_hw.data.image import ImageArray
from yolo_hw.data.labelled import ImageSource, LabelledImage
from yolo_hw.data.mosaic import mixup, mosaic
from yolo_hw.errors import DataError

__all__ = [
    "NO_AUGMENTATION",
    "AugmentConfig",
    "LabelledImage",
    "augment",
    "augmented",
    "batch_size_px",
    "without_mixing",
]


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
    mosaic: float = 0.0
    """Chance of laying an image out with three others, of which a window of its size is seen."""
    mixup: float = 0.0
    """Chance of blending an image with another one."""
    mixup_alpha: float = 1.5
    """The share of the first image is drawn from Beta(alpha, alpha)."""
    scale: float = 0.0
    """Largest relative change of the size of the content."""
    translate: float = 0.0
    """Largest shift, as a share of width and height."""
    rotate: float = 0.0
    """Largest turn in degrees."""
    shear: float = 0.0
    """Largest shear in degrees."""
    min_visible: float = 0.2
    """Share of an object's box that must remain after cutting, else the object is dropped."""
    multi_scale: float = 0.0
    """Largest relative change of the size of a batch's images; sides are multiples of `multi_scale_stride`."""
    multi_scale_every: int = 10
    """Batches of one size in a row."""
    multi_scale_stride: int = 32
    """Stride of the network's coarsest head."""
    close_mosaic: int = 0
    """Last epochs without mosaic and mixup, so that training ends on pictures as they are."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(self, "flip_x flip_y transpose saturation value mosaic mixup translate min_visible", 0, 1)
        _check(self, "hue", 0, 0.5)
        _check(self, "scale multi_scale", 0, 0.95)
        _check(self, "rotate", 0, 180)
        _check(self, "shear", 0, 60)
        _check(self, "mixup_alpha", 1e-3, 1e3)
        _check(self, "multi_scale_every multi_scale_stride", 1, 1 << 20)
        _check(self, "close_mosaic", 0, 1 << 30)

    @property
    def affine(self) -> AffineRanges:
        """The ranges of the affine map."""
        return AffineRanges(self.scale, self.translate, self.rotate, self.shear)


def _check(config: AugmentConfig, names: str, low: float, high: float) -> None:
    for name in names.split():
        if not low <= getattr(config, name) <= high:
            raise DataError(f"AugmentConfig: {name} must be in [{low:g}, {high:g}], got {getattr(config, name)}")


NO_AUGMENTATION = AugmentConfig(flip_x=0.0, hue=0.0, saturation=0.0, value=0.0)

MOSAIC_CENTRE = 0.25, 0.75
"""Where the point at which the four images of a mosaic meet may lie, as a share of the canvas."""


def without_mixing(config: AugmentConfig) -> AugmentConfig:
    """Return the options without mosaic and mixup."""
    return replace(config, mosaic=0.0, mixup=0.0)


def augmented(
    source: ImageSource,
    index: int,
    rng: np.random.Generator,
    config: AugmentConfig,
    size_factor: float = 1.0,
) -> LabelledImage:
    """Make a training image from image `index` of a source and, if it takes several, from others.

    Args:
        source: The images, all of one size if there is mosaic or mixup.
        index: Number of the image.
        rng: Random generator; what is switched off draws nothing.
        config: Chances and ranges.
        size_factor: Size of the result relative to the image's; other than 1, sides become multiples of
            ``config.multi_scale_stride``.

    Returns:
        The training image.
    """
    sample = _composed(source, index, rng, config, size_factor)
    if config.mixup and rng.random() < config.mixup:
        other = _composed(source, int(rng.integers(len(source))), rng, config, size_factor)
        sample = mixup(sample, other, float(rng.beta(config.mixup_alpha, config.mixup_alpha)))
    return augment(sample, rng, config)


def batch_size_px(size: tuple[int, int], factor: float, stride: int) -> tuple[int, int]:
    """Return (height, width) times a factor, rounded to multiples of `stride`; as it is where the factor is 1."""
    if factor == 1:
        return size
    height, width = (max(round(side * factor / stride), 1) * stride for side in size)
    return height, width


def _composed(
    source: ImageSource, index: int, rng: np.random.Generator, config: AugmentConfig, size_factor: float
) -> LabelledImage:
    """Return an image or a mosaic, under a random affine map, in its final size."""
    sample = source[index]
    height, width = sample.size
    size = batch_size_px(sample.size, size_factor, config.multi_scale_stride)
    if config.mosaic and rng.random() < config.mosaic:
        others = [source[int(other)] for other in rng.integers(len(source), size=3)]
        x, y = rng.uniform(*MOSAIC_CENTRE, 2)
        sample = mosaic([sample, *others], (x, y), config.min_visible)
    elif not config.affine:
        return resized(sample, size)
    old_height, old_width = sample.size
    to_origin = shifted(-old_width / 2, -old_height / 2)
    to_size = shifted(size[1] / 2, size[0] / 2) @ scaled(size[1] / width, size[0] / height)
    matrix = to_size @ random_affine(rng, config.affine, (height, width)) @ to_origin
    return warped(sample, matrix, size, config.min_visible)


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

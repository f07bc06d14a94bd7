# SPDX-License-Identifier: Apache-2.0
"""Affine maps of a labelled image: one resampling for scale, shift, turn and shear, boxes exactly as the pixels.

Coordinates are continuous: pixel i covers [i, i + 1], so a box from 0 to W covers all columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from yolo_hw.data.image import ImageArray
from yolo_hw.data.labelled import LabelledImage
from yolo_hw.data.preprocess import LETTERBOX_FILL

Matrix = npt.NDArray[np.float64]
"""[3, 3], from coordinates (x, y, 1) of the old image to those of the new one."""

MIN_SIDE_PX = 2.0
"""A box of which less remains is dropped."""

_HALF = 0.5
"""OpenCV's integers are pixel centres, ours are pixel edges."""


@dataclass(frozen=True)
class AffineRanges:
    """How far `random_affine` may go.

    Attributes:
        scale: Factors from ``1 - scale`` to ``1 + scale``.
        translate: Largest shift, as a share of width and height.
        rotate: Largest turn in degrees.
        shear: Largest shear in degrees, of each axis.
    """

    scale: float = 0.0
    translate: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.scale or self.translate or self.rotate or self.shear)


def random_affine(rng: np.random.Generator, ranges: AffineRanges, size: tuple[int, int]) -> Matrix:
    """Draw a map around the origin, which stands for the image's centre.

    Args:
        rng: Random generator; six numbers are drawn whatever the ranges.
        ranges: How far it may go.
        size: (height, width) that shifts are relative to.

    Returns:
        shift * shear * turn * scale.
    """
    draws = rng.uniform(-1, 1, 6)
    factor = 1 + draws[0] * ranges.scale
    angle = np.deg2rad(draws[1] * ranges.rotate)
    shear_x, shear_y = np.tan(np.deg2rad(draws[2:4] * ranges.shear))
    turn = factor * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2] = np.array([[1, shear_x], [shear_y, 1]]) @ turn
    matrix[:2, 2] = draws[4:6] * ranges.translate * [size[1], size[0]]
    return matrix


def shifted(x: float, y: float) -> Matrix:
    """Return the map that adds (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def scaled(x: float, y: float) -> Matrix:
    """Return the map that multiplies with (x, y)."""
    return np.diag([x, y, 1.0])


def warped(sample: LabelledImage, matrix: Matrix, size: tuple[int, int], min_visible: float) -> LabelledImage:
    """Map an image and its boxes.

    Args:
        sample: The image and its boxes.
        matrix: The map.
        size: (height, width) of the result; what the image does not reach is grey.
        min_visible: Share of a box that must remain in the result, else it is dropped.

    Returns:
        The result; a turned or sheared box becomes the upright hull of its corners.
    """
    centres = shifted(-_HALF, -_HALF) @ matrix @ shifted(_HALF, _HALF)
    fill = (LETTERBOX_FILL,) * 3
    image = cv2.warpAffine(sample.image, centres[:2], (size[1], size[0]), flags=cv2.INTER_LINEAR, borderValue=fill)
    pixels: ImageArray = np.asarray(image, np.uint8).reshape(*size, -1)
    return cropped(LabelledImage(pixels, mapped_boxes(sample.boxes, matrix), sample.labels), min_visible)


def mapped_boxes(boxes: npt.NDArray[np.float64], matrix: Matrix) -> npt.NDArray[np.float64]:
    """Return the upright hulls [B, 4] of mapped boxes [B, 4]."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    moved = corners @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate([moved.min(1), moved.max(1)], 1)


def cropped(sample: LabelledImage, min_visible: float) -> LabelledImage:
    """Clip boxes to the image; drop those of which less than `min_visible` or `MIN_SIDE_PX` remains."""
    height, width = sample.size
    boxes = np.clip(sample.boxes, 0, [width, height, width, height])
    sides = boxes[:, 2:] - boxes[:, :2]
    whole = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1)
    kept = (sides.prod(1) >= min_visible * whole) & (sides.min(1, initial=np.inf) >= MIN_SIDE_PX)
    return LabelledImage(sample.image, boxes[kept], sample.labels[kept])


def resized(sample: LabelledImage, size: tuple[int, int]) -> LabelledImage:
    """Stretch an image and its boxes to (height, width)."""
    if sample.size == size:
        return sample
    image = np.asarray(cv2.resize(sample.image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.uint8)
    ratio = np.array([size[1] / sample.size[1], size[0] / sample.size[0]] * 2)
    return LabelledImage(image.reshape(*size, -1), sample.boxes * ratio, sample.labels)

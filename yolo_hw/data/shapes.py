# SPDX-License-Identifier: Apache-2.0
"""A generated classification set: one bright shape on a noisy ground."""

from __future__ import annotations

import numpy as np

from yolo_hw.data.classification import ClassificationDataset
from yolo_hw.data.image import ImageArray

SHAPES = ("disc", "square", "ring", "cross")


def generate_shapes(count: int, seed: int, size: int = 32) -> ClassificationDataset:
    """Generate images of discs, squares, rings and crosses, in turn.

    Colour, place and size are drawn at random, so that no single pixel and no mean tells the class.

    Args:
        count: Number of images.
        seed: Of everything random; an image depends on the seed and its number alone.
        size: Height and width, at least 16.

    Returns:
        The data set.
    """
    labels = np.arange(count, dtype=np.int64) % len(SHAPES)
    pixels = [_draw(SHAPES[label], np.random.default_rng([seed, i]), size) for i, label in enumerate(labels)]
    return ClassificationDataset(SHAPES, labels, pixels=np.array(pixels, np.uint8).reshape(-1, size, size, 3))


def _draw(shape: str, rng: np.random.Generator, size: int) -> ImageArray:
    radius = rng.uniform(0.2, 0.32) * size
    y0, x0 = rng.uniform(radius, size - radius, 2)
    y, x = np.mgrid[:size, :size] + 0.5
    dy, dx = np.abs(y - y0), np.abs(x - x0)
    distance = np.hypot(dy, dx)
    inside = {
        "disc": distance < radius,
        "square": np.maximum(dy, dx) < 0.9 * radius,
        "ring": (distance < radius) & (distance > 0.55 * radius),
        "cross": (np.minimum(dy, dx) < 0.3 * radius) & (np.maximum(dy, dx) < radius),
    }[shape]
    ground, colour = rng.uniform(0, 110, 3), rng.uniform(140, 255, 3)
    image = np.where(inside[..., None], colour, ground) + rng.normal(0, 12, (size, size, 3))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)

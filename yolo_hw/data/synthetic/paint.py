# SPDX-License-Identifier: Apache-2.0
"""Tools of the painted surfaces: colours, coordinates, lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import cv2
import numpy as np

from yolo_hw.data.synthetic.noise import Noise, noise
from yolo_hw.data.synthetic.solids import Floats

T = TypeVar("T")
Colour = tuple[float, ...]
"""Red, green, blue in [0, 1]."""


def rotated(shape: tuple[int, int], angle: float) -> tuple[Floats, Floats]:
    """Coordinates of every pixel from the centre in axes turned by `angle`."""
    y = np.arange(shape[0], dtype=np.float32)[:, None] - shape[0] / 2
    x = np.arange(shape[1], dtype=np.float32)[None, :] - shape[1] / 2
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def grain(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Noise without any correlation, [height, width] of unit deviation."""
    return noise(rng, shape, Noise.WHITE)


def tint(tone: Floats, dark: Colour, light: Colour) -> Floats:
    """Map a tone, 0 dark to 1 light, to a mixture of two colours."""
    bounded = np.clip(tone, 0, 1).astype(np.float32)
    planes = [bounded * np.float32(high - low) + np.float32(low) for low, high in zip(dark, light, strict=True)]
    return np.asarray(cv2.merge(planes), np.float32)


def vary(rng: np.random.Generator, colour: Colour) -> Colour:
    """Return a similar colour: another brightness, hardly another hue."""
    varied = np.clip(np.array(colour) * rng.normal(1, 0.025, 3) * rng.uniform(0.75, 1.25), 0.01, 1)
    return tuple(float(v) for v in varied)


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """Choose one."""
    return choices[int(rng.integers(len(choices)))]


def print_marks(rng: np.random.Generator, image: Floats, count: int, ink: Colour) -> None:
    """Print lines, rectangles, circles and rows of dashes."""
    height, width = image.shape[:2]
    for _ in range(count):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        size, thick = rng.uniform(8, 70), rng.uniform(0.5, 1.4)
        kind = rng.integers(4)
        if kind == 0:
            turn = np.linspace(0, 2 * np.pi, 48)
            path = np.stack([x + size * 0.5 * np.cos(turn), y + size * 0.5 * np.sin(turn)], 1)
        elif kind == 1:
            path = np.array([[x, y], [x + size, y], [x + size, y + size * 0.6], [x, y + size * 0.6], [x, y]])
        elif kind == 2:
            path = np.array([[x, y], [x + size * 2 * rng.normal(), y + size * 2 * rng.normal()]])
        else:
            path = np.stack([x + np.arange(20) * 2.5, y + 2.5 * rng.normal(size=20)], 1)
        draw_line(image, path, ink, thick)


def scratch(rng: np.random.Generator, image: Floats, count: int, gain: float) -> None:
    """Brighten (or darken) thin straight lines."""
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.float32)
    for _ in range(count):
        start, turn = rng.uniform(0, 1, 2) * [width, height], rng.uniform(0, np.pi)
        path = np.array([start, start + rng.uniform(10, 180) * np.array([np.cos(turn), np.sin(turn)])])
        draw_line(mask[..., None], path, (float(rng.uniform(0.3, 1)),), 0.6)
    image += mask[..., None] * np.float32(gain)


def draw_line(image: Floats, path: Floats, colour: Colour, width: float) -> None:
    """Draw an anti-aliased polyline [P, 2] of x, y into [H, W, C], opaque where it is one pixel wide or more."""
    margin = int(width / 2) + 2
    low = np.maximum(np.floor(path.min(0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(path.max(0)).astype(int) + margin, [image.shape[1], image.shape[0]])
    if (high <= low).any():
        return
    window = image[low[1] : high[1], low[0] : high[0]]
    mask = np.zeros(window.shape[:2], np.uint8)
    points = np.rint((path - low) * 16).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(mask, [points], False, 255, max(round(width), 1), cv2.LINE_AA, 4)
    alpha = mask[..., None].astype(np.float32) * np.float32(min(width, 1.0) / 255)
    window += (np.asarray(colour[: image.shape[2]], np.float32) - window) * alpha


def wander(rng: np.random.Generator, shape: tuple[int, int], turn: float) -> Floats:
    """Return a smooth random walk across the image, [P, 2] of x, y; `turn` is its mean bend per step in radians."""
    steps = 80
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(
        np.convolve(rng.normal(0, turn, steps + 8), np.full(9, 1 / 3), "valid")
    )
    walk = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1) * (1.5 * max(shape) / steps), 0)
    centre = rng.uniform(0.2, 0.8, 2) * [shape[1], shape[0]]
    return np.asarray(walk - walk.mean(0) + centre, np.float32)

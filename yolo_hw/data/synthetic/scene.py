# SPDX-License-Identifier: Apache-2.0
"""Photographs of machine parts on a bench, generated with exact ground truth: a detection set out of nothing."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from yolo_hw.data.image import ImageArray
from yolo_hw.data.synthetic.camera import photograph
from yolo_hw.data.synthetic.grounds import draw_ground
from yolo_hw.data.synthetic.layout import Placed, SceneConfig, draw_layout, shrink, warp
from yolo_hw.data.synthetic.light import Light, draw_light, draw_material, draw_seal, shade
from yolo_hw.data.synthetic.solids import PARTS, Floats

PART_NAMES = tuple(PARTS)
"""Class names, in label order."""


@dataclass(frozen=True)
class Scene:
    """One generated image.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        boxes: [B, 4] float64 x1, y1, x2, y2: the pixel edges around each part's own silhouette, clipped to the image;
            what other parts hide of it counts.
        labels: [B] int64, index into `PART_NAMES`.
        areas: [B] float64, pixels of the silhouette inside the image.
        placed: The parts the boxes belong to, bottom first.
    """

    image: ImageArray
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    areas: npt.NDArray[np.float64]
    placed: tuple[Placed, ...]


def generate_scene(seed: int, index: int, config: SceneConfig | None = None) -> Scene:
    """Generate one image; the result depends on the arguments alone.

    Args:
        seed: Of the data set.
        index: Of the image in it.
        config: Sizes and counts.

    Returns:
        The image with its ground truth.
    """
    config = config or SceneConfig()
    rng = np.random.default_rng([seed, index])
    shape = _draw_shape(rng, config)
    things = draw_layout(rng, shape, config)
    light = draw_light(rng)
    image = draw_ground(rng, shape)
    for thing in things:
        _paint(rng, image, thing, light)
    parts = tuple(thing for thing in things if thing.label >= 0)
    truth = [_measure(part, shape) for part in parts]
    return Scene(
        photograph(rng, image),
        np.array([box for box, _ in truth], np.float64).reshape(-1, 4),
        np.array([part.label for part in parts], np.int64),
        np.array([area for _, area in truth], np.float64),
        parts,
    )


def _draw_shape(rng: np.random.Generator, config: SceneConfig) -> tuple[int, int]:
    """Draw (height, width): square or up to 4:3 in either direction."""
    longer = int(rng.integers(config.min_side_px, config.max_side_px + 1))
    shorter = max(round(longer * rng.choice([1.0, 0.75, rng.uniform(0.75, 1.0)])), config.min_side_px)
    return (longer, shorter) if rng.random() < 0.3 else (shorter, longer)


def _measure(part: Placed, shape: tuple[int, int]) -> tuple[tuple[int, int, int, int], int]:
    """Return the box and area of a part's silhouette inside the image."""
    rows, columns, patch_rows, patch_columns = part.window(shape)
    inside = part.alpha[patch_rows, patch_columns] > 0.5
    ys, xs = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    box = (columns.start + xs[0], rows.start + ys[0], columns.start + xs[-1] + 1, rows.start + ys[-1] + 1)
    return box, int(inside.sum())


def _paint(rng: np.random.Generator, image: Floats, thing: Placed, light: Light) -> None:
    """Draw one thing with its shadow on top of what is there."""
    relief = warp(thing, thing.sprite.relief)
    detail = warp(thing, thing.sprite.detail) * np.float32(1 / 255)
    x, y = (relief[..., i] * np.float32(1 / 127) - np.float32(128 / 127) for i in (0, 1))
    t = thing.turn.astype(np.float32)
    nx, ny = t[0, 0] * x + t[0, 1] * y, t[1, 0] * x + t[1, 1] * y
    planes = (nx, ny, detail[..., 1], detail[..., 2])
    materials = (draw_material(rng, thing.sprite.painted), draw_seal(rng))
    colour = shrink(shade(rng, planes, materials, light), thing)
    height = shrink(detail[..., 0].copy(), thing) * np.float32(thing.sprite.rise * thing.size_px)
    _cast_shadow(image, thing, height, light)
    rows, columns, patch_rows, patch_columns = thing.window((image.shape[0], image.shape[1]))
    under = image[rows, columns]
    under += (colour[patch_rows, patch_columns] - under) * thing.alpha[patch_rows, patch_columns, None]


def _cast_shadow(image: Floats, thing: Placed, height: Floats, light: Light) -> None:
    """Darken what lies behind a thing, seen from the lamp, and the ground it touches.

    The thing is cut into slices by height; each throws its outline as far as its height asks for.
    """
    away = -light.direction[:2] / light.direction[2]
    top = float(height.max())
    soft = 0.8 + 0.03 * thing.size_px
    margin = int(np.ceil(top * float(np.abs(away).max()) + 3 * soft)) + 1
    h, w = thing.alpha.shape
    shadow = np.zeros((h + 2 * margin, w + 2 * margin), np.float32)
    for level in (0.1, 0.35, 0.6, 0.85):
        dx, dy = (margin + round(float(a) * top * level) for a in away)
        spot = shadow[dy : dy + h, dx : dx + w]
        np.maximum(spot, thing.alpha * (height >= top * (level - 0.1)), out=spot)
    shadow = cv2.GaussianBlur(shadow, (0, 0), soft)
    x, y = thing.left - margin, thing.top - margin
    rows = slice(max(y, 0), min(y + shadow.shape[0], image.shape[0]))
    columns = slice(max(x, 0), min(x + shadow.shape[1], image.shape[1]))
    seen = shadow[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    image[rows, columns] *= cv2.merge([1 - np.float32(light.shadow) * seen] * 3)

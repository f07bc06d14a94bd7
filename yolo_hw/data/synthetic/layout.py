# SPDX-License-Identifier: Apache-2.0
"""Which parts lie where: sizes, positions, overlaps, and the silhouettes that become ground truth."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from yolo_hw.data.synthetic.solids import PARTS, Floats
from yolo_hw.data.synthetic.sprites import VARIANTS, Sprite, sprite
from yolo_hw.errors import DataError

CLUTTER = -1
"""Label of things that are none of the parts."""


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """What the generated scenes look like."""

    min_side_px: int = 256
    """Shortest image side."""
    max_side_px: int = 416
    """Longest image side."""
    max_objects: int = 12
    """Parts per image, from 1 to this."""
    min_part_px: float = 16.0
    """Longer side of the smallest part."""
    max_part_share: float = 0.5
    """Longer side of the largest part, relative to the shorter image side."""
    min_visible: float = 0.4
    """Parts of which less would be seen are not placed, in (0, 1]."""
    clutter: float = 0.35
    """Mean number of things in an image that are no parts, per part."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 32 <= self.min_side_px <= self.max_side_px:
            raise DataError(
                f"SceneConfig: 32 <= min_side_px <= max_side_px must hold, "
                f"got {self.min_side_px} and {self.max_side_px}"
            )
        if not 1 <= self.max_objects <= 100:
            raise DataError(f"SceneConfig: max_objects must be in [1, 100], got {self.max_objects}")
        if not 4 <= self.min_part_px < self.max_part_share * self.min_side_px:
            raise DataError(
                f"SceneConfig: min_part_px must be at least 4 and below max_part_share * min_side_px = "
                f"{self.max_part_share * self.min_side_px:g}, got {self.min_part_px}"
            )
        if not 0 < self.min_visible <= 1:
            raise DataError(f"SceneConfig: min_visible must be in (0, 1], got {self.min_visible}")
        if not 0 <= self.clutter <= 10:
            raise DataError(f"SceneConfig: clutter must be in [0, 10], got {self.clutter}")


@dataclass(frozen=True)
class Placed:
    """One thing in the scene.

    Attributes:
        label: Class, or `CLUTTER`.
        sprite: What it looks like.
        matrix: [2, 3] from sprite pixels to the pixels of its patch.
        turn: Rotation of the sprite's normals: [2, 2], mirroring included.
        size_px: Longer side of the sprite in image pixels.
        left: Column of the patch in the image; may be negative.
        top: Row of the patch in the image; may be negative.
        alpha: [h, w] coverage of the patch's pixels.
    """

    label: int
    sprite: Sprite
    matrix: npt.NDArray[np.float64]
    turn: npt.NDArray[np.float64]
    size_px: float
    left: int
    top: int
    alpha: Floats = field(repr=False)

    @property
    def oversampling(self) -> int:
        """Rendered pixels per image pixel and direction: small parts are drawn finer."""
        return 2 if self.size_px < 72 else 1

    def window(self, shape: tuple[int, int]) -> tuple[slice, slice, slice, slice]:
        """Return (rows, columns) of the image and (rows, columns) of the patch where they overlap."""
        y1, x1 = max(self.top, 0), max(self.left, 0)
        y2 = max(min(self.top + self.alpha.shape[0], shape[0]), y1)
        x2 = max(min(self.left + self.alpha.shape[1], shape[1]), x1)
        return (
            slice(y1, y2),
            slice(x1, x2),
            slice(y1 - self.top, y2 - self.top),
            slice(x1 - self.left, x2 - self.left),
        )


def draw_layout(rng: np.random.Generator, shape: tuple[int, int], config: SceneConfig) -> list[Placed]:
    """Place parts and clutter so that enough of every part is seen.

    Args:
        rng: Random generator.
        shape: (height, width) of the image.
        config: Counts and sizes.

    Returns:
        What was placed, bottom first; at least one part.
    """
    count = 1 + int(config.max_objects * rng.uniform(0, 1) ** 1.2)
    parts = [int(rng.integers(len(PARTS))) for _ in range(count)]
    labels = [*parts, *[CLUTTER] * int(rng.poisson(config.clutter * (1 + count / 4)))]
    rng.shuffle(labels)
    smallest = 2 * config.min_part_px
    largest = max(0.84 * config.max_part_share * min(shape), smallest)
    typical = np.exp(rng.uniform(np.log(smallest), np.log(largest)))
    typical = min(typical, 1.5 * min(shape) / np.sqrt(count))
    squash = rng.uniform(0.82, 1.0)
    crowding = rng.choice([0.0, 0.0, 0.0, rng.uniform(0.2, 0.7)])
    heap = rng.uniform(0.25, 0.75, 2) * [shape[1], shape[0]]
    placed: list[Placed] = []
    seen = _Visibility(shape, config.min_visible)
    for label in labels:
        size = float(typical * np.exp(rng.normal(0, 0.34)))
        size = min(max(size, config.min_part_px), config.max_part_share * min(shape))
        for _ in range(4):
            centre = rng.uniform(0, 1, 2) * [shape[1], shape[0]]
            centre += crowding * (heap - centre)
            thing = _place(rng, label, size, centre, squash)
            if seen.accepts(thing):
                placed.append(thing)
                break
    return placed if any(thing.label >= 0 for thing in placed) else draw_layout(rng, shape, config)


class _Visibility:
    """Keeps count of the visible pixels of every placed part."""

    def __init__(self, shape: tuple[int, int], least: float) -> None:
        self.shape = shape
        self.least = least
        self.owner = np.full(shape, -1, np.int32)
        self.full: list[int] = []

    def accepts(self, thing: Placed) -> bool:
        """Add `thing` on top unless it, or a part below it, would be seen too little."""
        rows, columns, patch_rows, patch_columns = thing.window(self.shape)
        inside = thing.alpha > 0.5
        covered = inside[patch_rows, patch_columns]
        full, visible = int(inside.sum()), int(covered.sum())
        if visible < max(self.least * full, 12):
            return False
        under = self.owner[rows, columns]
        hidden = np.bincount(under[covered & (under >= 0)], minlength=len(self.full))
        remaining = np.bincount(self.owner[self.owner >= 0], minlength=len(self.full)) if hidden.any() else hidden
        for number in np.flatnonzero(hidden):
            if remaining[number] - hidden[number] < self.least * self.full[number]:
                return False
        under[covered] = len(self.full)
        self.full.append(full)
        return True


def _place(rng: np.random.Generator, label: int, size: float, centre: npt.NDArray[np.float64], squash: float) -> Placed:
    """Turn, mirror and scale a sprite to `size` pixels around `centre` (x, y)."""
    image = sprite(label, int(rng.integers(VARIANTS)))
    height, width = image.relief.shape[:2]
    angle, mirror = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([mirror, 1.0])
    scale = size / max(height - 4, width - 4)
    linear = np.diag([1.0, squash]) @ turn * scale
    corners = linear @ (np.array([[-0.5, 0.5, -0.5, 0.5], [-0.5, -0.5, 0.5, 0.5]]) * [[width], [height]])
    low = np.floor(centre + corners.min(1)).astype(int)
    extent = np.ceil(centre + corners.max(1)).astype(int) - low
    matrix = np.concatenate([linear, (centre - low - linear @ [width / 2, height / 2])[:, None]], 1)
    draft = Placed(
        label, image, matrix, turn, size, int(low[0]), int(low[1]), np.zeros((extent[1], extent[0]), np.float32)
    )
    alpha = warp(draft, image.relief[..., 2]) * np.float32(1 / 255)
    return Placed(label, image, matrix, turn, size, int(low[0]), int(low[1]), shrink(alpha, draft))


def warp(thing: Placed, plane: npt.NDArray[np.uint8]) -> Floats:
    """Bring a plane [h, w] or [h, w, 3] of the sprite to its patch, `oversampling` times finer than the image."""
    fine = thing.oversampling
    matrix = thing.matrix * fine
    reduction = 1.0
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    while scale < 0.6:
        scale, reduction = scale * 2, reduction * 2
    if reduction > 1:
        small = (max(round(plane.shape[1] / reduction), 1), max(round(plane.shape[0] / reduction), 1))
        step = np.array([plane.shape[1] / small[0], plane.shape[0] / small[1]])
        plane = np.asarray(cv2.resize(plane, small, interpolation=cv2.INTER_AREA), np.uint8)
        matrix = np.concatenate([matrix[:, :2] * step, matrix[:, 2:]], 1)
    # OpenCV's pixel centres are at whole numbers, ours at halves.
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    size = (thing.alpha.shape[1] * fine, thing.alpha.shape[0] * fine)
    flat = plane.ndim == 2
    border = cv2.BORDER_CONSTANT if flat else cv2.BORDER_REPLICATE
    return np.asarray(cv2.warpAffine(plane, shifted, size, flags=cv2.INTER_LINEAR, borderMode=border), np.float32)


def shrink(image: Floats, thing: Placed) -> Floats:
    """Average a rendered patch down to image pixels."""
    if thing.oversampling == 1:
        return image
    size = (image.shape[1] // thing.oversampling, image.shape[0] // thing.oversampling)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.float32)

# SPDX-License-Identifier: Apache-2.0
"""Relief sprites of the parts: geometry traced once per variant, lit and coloured later for every scene."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from yolo_hw.data.synthetic.solids import PARTS, Distance, Floats, Rest, Solid, clutter

VARIANTS = 48
"""Shapes and poses per class; in-plane rotation, size, mirror, light and material come on top, per scene."""
SPRITE_PX = 160
"""Longer side of a sprite."""
OVERSAMPLING = 2
"""Rays per pixel and direction."""
MAX_STEPS = 72
SURFACE = 2e-3
"""A ray has arrived below this distance (the solid's bounding radius is 1)."""
BANK_SEED = 20_240_517
"""The variants are the same for every data set; a scene's own seed chooses among them."""


@dataclass(frozen=True)
class Sprite:
    """One part seen from straight above, cut to its silhouette.

    Attributes:
        relief: [H, W, 3] uint8: normal x and y (128 is 0, 127 steps are 1), coverage (255 inside).
        detail: [H, W, 3] uint8: height over the bench (255 is `rise`), ambient light reaching the point, 255 where the
            second material is.
        rise: Highest point over the bench, relative to the sprite's longer side.
        painted: Chance that the part is painted or plastic.
    """

    relief: npt.NDArray[np.uint8]
    detail: npt.NDArray[np.uint8]
    rise: float
    painted: float


@cache
def sprite(label: int, variant: int) -> Sprite:
    """Return a sprite, traced on first use; label -1 is clutter that is none of the parts."""
    rng = np.random.default_rng([BANK_SEED, label + 1, variant])
    solid = clutter(rng) if label < 0 else list(PARTS.values())[label](rng)
    return trace_sprite(solid, _pose(rng, solid))


def trace_sprite(solid: Solid, pose: npt.NDArray[np.float64]) -> Sprite:
    """Look at a solid from above by sphere tracing (Hart, "Sphere Tracing", The Visual Computer 1996).

    Args:
        solid: The part.
        pose: [3, 3] rotation from the part's frame to the camera's; z points to the camera.

    Returns:
        The sprite, cut to the silhouette.
    """
    distance = _posed(solid.distance, pose)
    px, py = _silhouette_grid(distance, solid.caution)
    shape, px, py = px.shape, px.ravel(), py.ravel()
    depth, closest = _march(distance, px, py, solid.caution)
    hit = closest < SURFACE
    point = (px[hit], py[hit], depth[hit])
    normal = _normals(distance, *point)
    light = _ambient(distance, point, normal)
    zone = 0 * light if solid.zone is None else _posed(solid.zone, pose)(*point) < 0
    nx, ny = _turn(solid, pose, point, normal) if solid.turned else normal[:2]
    height = point[2] - point[2].min()
    planes = np.zeros((6, hit.size), np.float32)
    planes[:, hit] = [
        nx * 127 + 128,
        ny * 127 + 128,
        np.full_like(nx, 255),
        height / height.max() * 255,
        light * 255,
        zone * np.float32(255),
    ]
    image = _spread(planes.reshape(6, *shape), hit.reshape(shape))
    step = float(px[1] - px[0])
    relief, detail, longer = _shrink(image)
    return Sprite(relief, detail, float(height.max()) / step / longer, solid.painted)


def _silhouette_grid(distance: Distance, caution: float) -> tuple[Floats, Floats]:
    """Return x and y [H, W] of rays over the silhouette, which a coarse trace finds."""
    coarse = 64
    axis = (np.arange(coarse, dtype=np.float32) + 0.5) * (2 / coarse) - 1
    gx, gy = np.meshgrid(axis, axis)
    _, closest = _march(distance, gx.ravel(), gy.ravel(), caution)
    near = closest.reshape(coarse, coarse) < 2 / coarse
    low_x, high_x = axis[np.flatnonzero(near.any(0))[[0, -1]]]
    low_y, high_y = axis[np.flatnonzero(near.any(1))[[0, -1]]]
    margin = 3 / coarse
    low_x, low_y, high_x, high_y = low_x - margin, low_y - margin, high_x + margin, high_y + margin
    step = max(high_x - low_x, high_y - low_y) / (SPRITE_PX * OVERSAMPLING)
    counts = [int(np.ceil(extent / step / OVERSAMPLING)) * OVERSAMPLING for extent in (high_x - low_x, high_y - low_y)]
    xs, ys = (low + step * (np.arange(n) + 0.5) for low, n in zip((low_x, low_y), counts, strict=True))
    grid = np.meshgrid(xs.astype(np.float32), ys.astype(np.float32))
    return grid[0], grid[1]


def _pose(rng: np.random.Generator, solid: Solid) -> npt.NDArray[np.float64]:
    """Draw the rotation from the part's frame to the camera's."""
    if solid.rest is Rest.ANY:
        q, r = np.linalg.qr(rng.normal(size=(3, 3)))
        return np.asarray(q * np.sign(np.diag(r)), np.float64)
    spin, lean = rng.uniform(0, 2 * np.pi), solid.lean * rng.uniform(0, 1) ** 1.5
    if solid.rest is Rest.LYING:
        lean = np.pi / 2 - lean
    elif rng.random() < 0.5:
        lean = np.pi - lean
    about_z = np.array([[np.cos(spin), -np.sin(spin), 0], [np.sin(spin), np.cos(spin), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(lean), -np.sin(lean)], [0, np.sin(lean), np.cos(lean)]])
    return np.asarray(about_x @ about_z, np.float64)


def _posed(distance: Distance, pose: npt.NDArray[np.float64]) -> Distance:
    """Return the distance function of the rotated solid."""
    m = pose.astype(np.float32)

    def rotated(x: Floats, y: Floats, z: Floats) -> Floats:
        return distance(
            m[0, 0] * x + m[1, 0] * y + m[2, 0] * z,
            m[0, 1] * x + m[1, 1] * y + m[2, 1] * z,
            m[0, 2] * x + m[1, 2] * y + m[2, 2] * z,
        )

    return rotated


def _march(distance: Distance, px: Floats, py: Floats, caution: float) -> tuple[Floats, Floats]:
    """March rays down from the unit ball; return their last z and the smallest distance met."""
    inside = 1 - px * px - py * py
    depth = np.sqrt(np.maximum(inside, 0))
    closest = np.full_like(px, 1.0)
    alive = np.flatnonzero(inside > 0)
    for _ in range(MAX_STEPS):
        d = distance(px[alive], py[alive], depth[alive])
        closest[alive] = np.minimum(closest[alive], d)
        moving = d > SURFACE
        alive, d = alive[moving], d[moving]
        depth[alive] -= np.maximum(d * np.float32(caution), SURFACE * 0.5)
        alive = alive[depth[alive] > -1]
        if not alive.size:
            break
    return depth, closest


def _normals(distance: Distance, x: Floats, y: Floats, z: Floats) -> tuple[Floats, Floats, Floats]:
    """Central differences of the distance, normalised."""
    e = np.float32(4e-3)
    nx = distance(x + e, y, z) - distance(x - e, y, z)
    ny = distance(x, y + e, z) - distance(x, y - e, z)
    nz = distance(x, y, z + e) - distance(x, y, z - e)
    length = np.sqrt(nx * nx + ny * ny + nz * nz) + np.float32(1e-9)
    return nx / length, ny / length, nz / length


def _ambient(distance: Distance, p: tuple[Floats, ...], n: tuple[Floats, ...]) -> Floats:
    """Share of ambient light that reaches the points: how far the distance along the normal stays behind the path."""
    blocked = np.zeros_like(p[0])
    for step, weight in ((0.04, 1.0), (0.1, 0.7), (0.2, 0.5)):
        reached = distance(*(a + np.float32(step) * b for a, b in zip(p, n, strict=True)))
        blocked += np.float32(weight) * np.clip(1 - reached / np.float32(step), 0, 1)
    light: Floats = np.clip(1 - np.float32(0.42) * blocked, 0.1, 1)
    return light


def _turn(
    solid: Solid, pose: npt.NDArray[np.float64], p: tuple[Floats, ...], n: tuple[Floats, ...]
) -> tuple[Floats, Floats]:
    """Tilt the normals of faces across the axis back and forth along the radius, as a lathe tool leaves them."""
    m = pose.astype(np.float32)
    x, y = (m[0, i] * p[0] + m[1, i] * p[1] + m[2, i] * p[2] for i in (0, 1))
    along = np.abs(m[0, 2] * n[0] + m[1, 2] * n[1] + m[2, 2] * n[2])
    r = np.hypot(x, y) + np.float32(1e-6)
    wave = np.sin(r * 95) + np.sin(r * 41 + 1) + np.sin(r * 17 + 2)
    tilt = np.float32(solid.turned * 0.12) * wave * (along > 0.9)
    cx, cy = x / r, y / r
    return n[0] + tilt * (m[0, 0] * cx + m[0, 1] * cy), n[1] + tilt * (m[1, 0] * cx + m[1, 1] * cy)


def _spread(planes: Floats, hit: npt.NDArray[np.bool_]) -> Floats:
    """Give the points outside the silhouette the values of the nearest one inside, so that edges blend cleanly."""
    _, labels = cv2.distanceTransformWithLabels((~hit).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    source = np.zeros(int(labels.max()) + 1, np.int64)
    source[labels[hit]] = np.flatnonzero(hit)
    spread = planes.reshape(6, -1)[:, source[labels]]
    spread[2] = planes[2]
    return spread


def _shrink(planes: Floats) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], int]:
    """Average the rays of each pixel and crop to the silhouette with a margin of two pixels.

    Returns:
        Relief, detail and the longer side of the silhouette in rays.
    """
    rows, columns = (np.flatnonzero(planes[2].max(axis) > 0) for axis in (1, 0))
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    size = (planes.shape[2] // OVERSAMPLING, planes.shape[1] // OVERSAMPLING)
    image = np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in planes], -1)
    top, left = max(int(rows[0]) // OVERSAMPLING - 2, 0), max(int(columns[0]) // OVERSAMPLING - 2, 0)
    bottom, right = int(rows[-1]) // OVERSAMPLING + 3, int(columns[-1]) // OVERSAMPLING + 3
    cut = np.clip(np.rint(image[top:bottom, left:right]), 0, 255).astype(np.uint8)
    return cut[..., :3].copy(), cut[..., 3:].copy(), int(longer)

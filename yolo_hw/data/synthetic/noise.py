# SPDX-License-Identifier: Apache-2.0
"""Noise fields for textures, cut out of a few large tiles that are made once."""

from __future__ import annotations

from enum import Enum
from functools import cache

import cv2
import numpy as np

from yolo_hw.data.synthetic.solids import Floats

TILE_PX = 1024
_TILE_SEED = 7_919


class Noise(Enum):
    """The kinds of tiles, each with zero mean and unit deviation.

    A value is (first grid size, last grid size, share of amplitude kept per octave).
    """

    CLOUD = (4, 128, 0.55)
    """Soft, large blots."""
    ROUGH = (8, 1024, 0.78)
    """Every scale, as in stone."""
    FINE = (128, 1024, 0.8)
    """No structure above eight pixels."""
    WHITE = (1024, 1024, 1.0)
    """Every pixel on its own."""
    STREAK = (1, 1, 1.0)
    """Correlated along x over hundreds of pixels, hardly along y."""


def noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    kind: Noise,
    *,
    angle: float | None = 0.0,
    zoom: float | tuple[float, float] = 1.0,
) -> Floats:
    """Cut a random window out of a tile.

    Args:
        rng: Chooses the window.
        shape: (height, width).
        kind: The tile.
        angle: Rotation in radians, None for a random one.
        zoom: Enlargement of the features, or one along each of the tile's axes (x, y).

    Returns:
        [height, width] with about zero mean and unit deviation.
    """
    height, width = shape
    zx, zy = (zoom, zoom) if isinstance(zoom, float) else zoom
    turn = rng.uniform(0, 2 * np.pi) if angle is None else angle
    cos, sin = np.cos(turn), np.sin(turn)
    inverse = np.array([[cos / zx, sin / zx, 0], [-sin / zy, cos / zy, 0]])
    inverse[:, 2] = rng.uniform(0, TILE_PX, 2) - inverse[:, :2] @ [width / 2, height / 2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(_tile(kind), inverse, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT), np.float32
    )


@cache
def _tile(kind: Noise) -> Floats:
    rng = np.random.default_rng([_TILE_SEED, list(Noise).index(kind)])
    if kind is Noise.STREAK:
        white = rng.normal(size=(TILE_PX, TILE_PX)).astype(np.float32)
        tile = np.zeros_like(white)
        for along in (8, 40, 120):
            tile += cv2.GaussianBlur(white, (0, 0), sigmaX=along, sigmaY=0.35) * np.float32(along**0.5)
    else:
        grid, last, share = kind.value
        tile, amplitude = np.zeros((TILE_PX, TILE_PX), np.float32), 1.0
        while grid <= last:
            octave = rng.normal(size=(grid, grid)).astype(np.float32)
            tile += amplitude * cv2.resize(octave, (TILE_PX, TILE_PX), interpolation=cv2.INTER_CUBIC)
            grid, amplitude = grid * 2, amplitude * share
    tile -= tile.mean()
    tile /= tile.std()
    return tile

# SPDX-License-Identifier: Apache-2.0
"""Marks of use on a bench: stains, cup rings, a cable, a strip of tape."""

from __future__ import annotations

import cv2
import numpy as np

from yolo_hw.data.synthetic.noise import Noise, noise
from yolo_hw.data.synthetic.paint import draw_line, pick, rotated, wander
from yolo_hw.data.synthetic.solids import Floats

STAINS = ((0.25, 0.21, 0.16), (0.45, 0.33, 0.22), (0.55, 0.55, 0.55), (0.35, 0.30, 0.28))
CABLES = ((0.10, 0.10, 0.10), (0.65, 0.12, 0.10), (0.12, 0.20, 0.50), (0.85, 0.84, 0.80))
TAPES = ((0.82, 0.74, 0.50), (0.70, 0.70, 0.72), (0.15, 0.30, 0.55), (0.85, 0.80, 0.20))


def add_marks(rng: np.random.Generator, image: Floats) -> None:
    """Draw some marks, or none, into an image [H, W, 3]."""
    for share, mark in ((0.45, _stain), (0.2, _ring_stain), (0.18, _cable), (0.12, _tape)):
        if rng.random() < share:
            mark(rng, image)


def _stain(rng: np.random.Generator, image: Floats) -> None:
    """Darken blots."""
    shape = (image.shape[0], image.shape[1])
    blot = noise(rng, shape, Noise.CLOUD, zoom=rng.uniform(0.4, 1.2)) + 0.3 * noise(rng, shape, Noise.ROUGH)
    cover = np.clip((blot - rng.uniform(0.7, 1.6)) * rng.uniform(1, 5), 0, 1)[..., None]
    image *= 1 - (1 - np.asarray(pick(rng, STAINS), np.float32)) * cover * np.float32(rng.uniform(0.3, 0.9))


def _ring_stain(rng: np.random.Generator, image: Floats) -> None:
    """Leave the mark of a wet cup or can."""
    height, width = image.shape[:2]
    y, x = np.ogrid[:height, :width]
    radius = rng.uniform(0.1, 0.3) * min(height, width)
    off = np.abs(np.hypot(x - rng.uniform(0, width), y - rng.uniform(0, height)).astype(np.float32) - radius)
    patchy = 0.6 + 0.4 * noise(rng, (height, width), Noise.CLOUD)
    image *= 1 - 0.22 * np.clip((2.5 - off) * 0.5 * patchy, 0, 1)[..., None]


def _cable(rng: np.random.Generator, image: Floats) -> None:
    """Lay a round cable with a shadow across the bench."""
    path = wander(rng, (image.shape[0], image.shape[1]), rng.uniform(0.02, 0.16))
    width, colour = rng.uniform(3, 8), np.array(pick(rng, CABLES))
    shadow = np.zeros(image.shape[:2], np.float32)
    draw_line(shadow[..., None], path + width * 0.5, (1.0,), width)
    image *= 1 - 0.5 * cv2.GaussianBlur(shadow, (0, 0), width * 0.4)[..., None]
    for share, gain in ((1.0, 0.55), (0.75, 0.85), (0.5, 1.05), (0.2, 1.5)):
        draw_line(
            image, path - width * 0.12 * (1 - share), tuple(np.minimum(colour * gain + 0.05 * gain, 1)), width * share
        )


def _tape(rng: np.random.Generator, image: Floats) -> None:
    """Stick a strip of tape."""
    height, width = image.shape[:2]
    u, v = rotated((height, width), rng.uniform(0, np.pi))
    v = v - np.float32(rng.uniform(-0.4, 0.4) * height)
    inside = np.clip(rng.uniform(8, 22) - np.abs(v), 0, 1) * np.clip(u + rng.uniform(-80, 160), 0, 1)
    colour = np.asarray(pick(rng, TAPES), np.float32)
    tone = (0.95 + 0.05 * noise(rng, (height, width), Noise.ROUGH))[..., None]
    image += (colour * tone - image) * (inside * rng.uniform(0.7, 1.0))[..., None].astype(np.float32)

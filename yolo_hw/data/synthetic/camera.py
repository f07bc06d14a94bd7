# SPDX-License-Identifier: Apache-2.0
"""From light to bytes: uneven illumination, exposure, blur, sensor noise and JPEG."""

from __future__ import annotations

import cv2
import numpy as np

from yolo_hw.data.image import ImageArray
from yolo_hw.data.synthetic.noise import Noise, noise
from yolo_hw.data.synthetic.solids import Floats

KNEE = 0.7
"""Brightness from which the sensor's response bends toward saturation."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey picture (Rec. ITU-R BT.601)."""


def photograph(rng: np.random.Generator, image: Floats) -> ImageArray:
    """Take a picture of a scene.

    Args:
        rng: Random generator.
        image: [H, W, 3] light, 1 is white; overwritten.

    Returns:
        [H, W, 3] uint8 RGB.
    """
    shape = (image.shape[0], image.shape[1])
    image *= cv2.merge([_illumination(rng, shape)] * 3)
    image = np.asarray(cv2.transform(_lens(rng, image), _exposure(rng)), np.float32)
    speckle = noise(rng, shape, Noise.WHITE) * np.float32(rng.exponential(0.014))
    image += cv2.merge([speckle] * 3 if rng.random() < 0.5 else [speckle * np.float32(g) for g in (0.9, 0.7, 1.2)])
    # Beyond the knee the response is the hyperbola that meets it smoothly and tends to 1.
    excess = np.maximum(image - np.float32(KNEE), 0)
    image += excess / (1 + excess * np.float32(1 / (1 - KNEE))) - excess
    return _jpeg(rng, np.clip(image * 255 + np.float32(0.5), 0, 255).astype(np.uint8))


def _exposure(rng: np.random.Generator) -> Floats:
    """Draw gain, contrast, white balance and, rarely, a grey picture: [3, 4] from (r, g, b, 1) to (r, g, b)."""
    contrast = rng.uniform(0.85, 1.2)
    gains = rng.normal(1, 0.035, 3) * np.exp(rng.normal(0.08, 0.16)) * contrast
    mixture = np.diag(gains) if rng.random() < 0.94 else np.tile(np.array(LUMA) * gains.mean(), (3, 1))
    offset = 0.45 * (1 - contrast) + rng.normal(0, 0.02)
    return np.concatenate([mixture, np.full((3, 1), offset)], 1).astype(np.float32)


def _illumination(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """A gradient, the pool of a lamp and the lens's fall-off: [H, W] around 1."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    u = (x.astype(np.float32) + 0.5) / shape[1] - 0.5
    v = (y.astype(np.float32) + 0.5) / shape[0] - 0.5
    a, b = (float(s) for s in rng.normal(0, 0.28, 2))
    cx, cy = (float(s) for s in rng.uniform(-0.5, 0.5, 2))
    pool, vignette = rng.uniform(0, 0.45), rng.uniform(0, 0.5)
    field = 1 + a * u + b * v + pool * (np.exp(-3 * ((u - cx) ** 2 + (v - cy) ** 2)) - 0.5) - vignette * (u * u + v * v)
    if rng.random() < 0.12:  # the edge of something's shadow across the bench
        turn, soft = rng.uniform(0, 2 * np.pi), rng.uniform(0.005, 0.08)
        edge = u * float(np.cos(turn)) + v * float(np.sin(turn)) - rng.uniform(-0.3, 0.3)
        field = field * (1 - rng.uniform(0.15, 0.5) * np.clip(0.5 + edge / soft, 0, 1))
    return np.maximum(field, 0.2).astype(np.float32)


def _lens(rng: np.random.Generator, image: Floats) -> Floats:
    """Lens blur always, now and then defocus or motion."""
    kind = rng.random()
    if kind < 0.1:
        reach, turn = rng.uniform(1.5, 4.5), rng.uniform(0, np.pi)
        size = 9
        kernel = np.zeros((size, size), np.float32)
        end = np.array([np.cos(turn), np.sin(turn)]) * reach / 2
        first, last = ((size // 2 + s * end) * 16 for s in (-1, 1))
        cv2.line(kernel, tuple(np.rint(first).astype(int)), tuple(np.rint(last).astype(int)), 1.0, 1, cv2.LINE_8, 4)
        return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.float32)
    sigma = rng.uniform(0.7, 1.4) if kind < 0.22 else rng.uniform(0.25, 0.65)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def _jpeg(rng: np.random.Generator, pixels: ImageArray) -> ImageArray:
    """Compress and expand."""
    quality = int(rng.integers(55, 97))
    _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded[..., ::-1], np.uint8)

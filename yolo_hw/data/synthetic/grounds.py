# SPDX-License-Identifier: Apache-2.0
"""What the parts lie on: benches, belts, mats and sheets, each painted from noise and simple geometry."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from yolo_hw.data.synthetic.marks import add_marks
from yolo_hw.data.synthetic.noise import Noise, noise
from yolo_hw.data.synthetic.paint import (
    draw_line,
    grain,
    pick,
    print_marks,
    rotated,
    scratch,
    tint,
    vary,
    wander,
)
from yolo_hw.data.synthetic.solids import Floats

Ground = Callable[[np.random.Generator, tuple[int, int]], Floats]
"""Random generator and (height, width) to [height, width, 3] RGB in about [0, 1]."""


def concrete(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Grey floor with pits and a crack or two."""
    base = (
        0.5 * noise(rng, shape, Noise.CLOUD) + 0.6 * noise(rng, shape, Noise.FINE, zoom=0.5) + 0.5 * grain(rng, shape)
    )
    image = tint(0.5 + 0.16 * base, vary(rng, (0.36, 0.35, 0.33)), vary(rng, (0.70, 0.69, 0.66)))
    pits = noise(rng, shape, Noise.FINE, zoom=rng.uniform(0.7, 1.6))
    image *= 1 - 0.45 * np.clip(pits - 2.0, 0, 1)[..., None]
    for _ in range(int(rng.integers(0, 3))):
        draw_line(image, wander(rng, shape, 0.12), (0.18, 0.17, 0.16), 0.7)
    return image


def brushed_metal(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Steel or aluminium sheet with brush marks and a broad sheen."""
    angle = rng.uniform(0, np.pi)
    marks = noise(rng, shape, Noise.STREAK, angle=angle) + 0.25 * grain(rng, shape)
    u, _ = rotated(shape, angle + rng.normal(0, 0.2))
    sheen = 0.25 * np.cos(u * rng.uniform(0.004, 0.014) + rng.uniform(0, 6))
    image = tint(0.5 + sheen + 0.13 * marks, vary(rng, (0.33, 0.34, 0.36)), vary(rng, (0.83, 0.84, 0.86)))
    scratch(rng, image, int(rng.integers(0, 14)), 0.12)
    return image


def wood(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Planks with grain, pores and seams."""
    angle = rng.uniform(0, np.pi)
    u, v = rotated(shape, angle)
    plank = rng.uniform(45, 160)
    number = np.floor(v / plank)
    shift = np.sin(number * 12.9898 + rng.uniform(0, 9)) * 43.0
    warp = noise(rng, shape, Noise.CLOUD, angle=angle, zoom=(3.0, 0.8))
    rings = np.sin((v + 7 * warp + shift) * rng.uniform(0.15, 0.5) + 0.004 * u)
    pores = noise(rng, shape, Noise.STREAK, angle=angle, zoom=(0.35, 1.2))
    tone = 0.5 + 0.14 * rings + 0.13 * pores + 0.1 * np.sin(number * 7.7) + 0.06 * grain(rng, shape)
    dark, light = pick(rng, WOODS)
    image = tint(tone, vary(rng, dark), vary(rng, light))
    seam = np.abs(v / plank - np.round(v / plank)) * plank
    image *= (1 - 0.65 * np.clip(1.6 - seam, 0, 1))[..., None]
    return image


def fabric(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Woven cloth with folds."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(3.2, 8)
    u, v = rotated(shape, angle)
    u, v = u + 1.2 * noise(rng, shape, Noise.CLOUD), v + 1.2 * noise(rng, shape, Noise.CLOUD)
    warp, weft = np.sin(u * (2 * np.pi / period)), np.sin(v * (2 * np.pi / period))
    over = np.sin(u * (np.pi / period)) * np.sin(v * (np.pi / period)) > 0
    thread = np.where(over, warp, weft)
    folds = noise(rng, shape, Noise.CLOUD, angle=None, zoom=(2.5, 1.0))
    tone = 0.5 + 0.17 * thread + 0.14 * folds + 0.1 * grain(rng, shape)
    colour = np.array(pick(rng, CLOTHS))
    return tint(tone, tuple(colour * 0.55), tuple(np.minimum(colour * 1.3, 1)))


def painted_pattern(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Stripes or checks in two paints, worn through to the ground."""
    u, v = rotated(shape, rng.uniform(0, np.pi))
    period = rng.uniform(28, 110)
    field = np.sin(u * (2 * np.pi / period))
    if rng.random() < 0.5:
        field = field * np.sin(v * (2 * np.pi / period))
    sharp = np.clip(0.5 + field * period * 0.35, 0, 1)
    first, second = pick(rng, PAINT_PAIRS)
    image = tint(sharp, first, second) * (0.92 + 0.06 * noise(rng, shape, Noise.ROUGH))[..., None]
    worn = np.clip((noise(rng, shape, Noise.ROUGH) - rng.uniform(0.9, 2.2)) * 2.5, 0, 1)[..., None]
    bare = tint(0.5 + 0.2 * grain(rng, shape), (0.30, 0.29, 0.28), (0.60, 0.59, 0.57))
    image += (bare - image) * worn
    return image


def conveyor(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Rubber belt: ribs, diamonds or plain, between two rails now and then."""
    u, v = rotated(shape, rng.choice([0, np.pi / 2]) + rng.normal(0, 0.08))
    period, kind = rng.uniform(5, 26), rng.integers(4)
    bumps = {
        0: np.sin(u * (2 * np.pi / period)),
        1: np.sin((u + v) * (np.pi / period)) * np.sin((u - v) * (np.pi / period)),
        2: np.clip(np.sin(u * (2 * np.pi / (4 * period))) * 6 - 4.6, 0, 1) * 2.5,
        3: np.zeros_like(u),
    }[int(kind)]
    tone = 0.4 + 0.16 * bumps + 0.1 * noise(rng, shape, Noise.ROUGH) + 0.1 * grain(rng, shape)
    dark = vary(rng, pick(rng, BELTS))
    image = tint(tone, tuple(np.array(dark) * 0.45), tuple(np.array(dark) * 1.7))
    if rng.random() < 0.35:
        edge = rng.uniform(0.28, 0.42) * shape[0]
        rail = np.clip(np.abs(v) - edge, 0, 1)[..., None]
        steel = tint(0.55 + 0.3 * np.cos((np.abs(v) - edge) * 0.12) + 0.06 * grain(rng, shape), STEEL[0], STEEL[1])
        image += (steel - image) * rail
    return image


def cutting_mat(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Coloured mat with a printed grid."""
    u, v = rotated(shape, rng.normal(0, 0.3))
    pitch = rng.uniform(14, 34)
    colour = vary(rng, pick(rng, MATS))
    image = tint(
        0.5 + 0.1 * grain(rng, shape) + 0.05 * noise(rng, shape, Noise.ROUGH), tuple(np.array(colour) * 0.8), colour
    )
    ink = np.zeros_like(u)
    for step, strength, width in ((pitch, 0.35, 0.6), (5 * pitch, 0.7, 0.95)):
        for axis in (u, v):
            off = np.abs(axis / step - np.round(axis / step)) * np.float32(step)
            ink = np.maximum(ink, np.clip(width + 0.4 - off, 0, 1) * np.float32(strength))
    image += (np.float32(0.85) - image) * ink[..., None] * np.float32(rng.uniform(0.4, 0.9))
    scratch(rng, image, int(rng.integers(0, 10)), -0.08)
    return image


def tread_plate(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Metal plate with raised lozenges."""
    pitch = rng.uniform(20, 46)
    u, v = rotated(shape, rng.uniform(0, np.pi))
    cell_u, cell_v = np.round(u / pitch), np.round(v / pitch)
    lu, lv = u - cell_u * np.float32(pitch), v - cell_v * np.float32(pitch)
    flip = (cell_u + cell_v) % 2 > 0.5
    a, b = np.where(flip, lu, lv), np.where(flip, lv, lu)
    height = np.clip(1.3 - (a / (0.46 * pitch)) ** 2 - (b / (0.13 * pitch)) ** 2, 0, 0.7)
    relief = _emboss(height * np.float32(pitch * 0.16) + 0.12 * noise(rng, shape, Noise.ROUGH), rng)
    tone = 0.5 + 0.3 * relief + 0.07 * grain(rng, shape) + 0.08 * noise(rng, shape, Noise.CLOUD)
    return tint(tone, *pick(rng, PLATES))


def cardboard(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Brown board with flutes, fibres and a printed line."""
    angle = rng.uniform(0, np.pi)
    u, _ = rotated(shape, angle)
    flutes = np.sin(u * (2 * np.pi / rng.uniform(7, 14)))
    fibres = noise(rng, shape, Noise.STREAK, angle=None, zoom=(0.15, 1.5))
    tone = 0.5 + 0.05 * flutes + 0.12 * fibres + 0.1 * noise(rng, shape, Noise.CLOUD) + 0.07 * grain(rng, shape)
    image = tint(tone, vary(rng, (0.45, 0.33, 0.22)), vary(rng, (0.80, 0.64, 0.46)))
    print_marks(rng, image, int(rng.integers(0, 4)), (0.16, 0.14, 0.13))
    return image


def perforated(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Sheet with regular holes."""
    u, v = rotated(shape, rng.uniform(0, np.pi))
    pitch = rng.uniform(16, 48)
    row = np.round(v / pitch)
    offset = 0.5 * (row % 2) if rng.random() < 0.5 else 0 * row
    du = u / pitch - offset
    du, dv = (du - np.round(du)) * np.float32(pitch), v - row * np.float32(pitch)
    inside = np.clip(pitch * rng.uniform(0.16, 0.3) - np.hypot(du, dv) + 0.5, 0, 1)
    lit = np.clip((0.54 * du + 0.84 * dv) / (pitch * 0.3), -1, 1)
    dark, light = pick(rng, PLATES)
    image = tint(0.6 + 0.08 * noise(rng, shape, Noise.ROUGH) + 0.05 * grain(rng, shape), dark, light)
    hole = np.clip(0.07 + 0.06 * lit, 0, 1)[..., None] * np.array([1, 0.97, 0.93], np.float32)
    image += (hole - image) * inside[..., None]
    return image


def drawing(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Paper with a technical drawing: circles, rectangles, dimension lines."""
    paper, ink = pick(rng, SHEETS)
    tone = 0.6 + 0.1 * noise(rng, shape, Noise.CLOUD, zoom=2.0) + 0.06 * grain(rng, shape)
    image = tint(tone, tuple(np.array(paper) * 0.85), paper)
    print_marks(rng, image, int(rng.integers(5, 16)), ink)
    return image


def painted_bench(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Evenly painted or plastic surface with scratches and dust."""
    colour = np.array(vary(rng, pick(rng, BENCHES)))
    tone = 0.5 + 0.12 * noise(rng, shape, Noise.CLOUD) + 0.05 * grain(rng, shape)
    image = tint(tone, tuple(colour * 0.8), tuple(np.minimum(colour * 1.15, 1)))
    scratch(rng, image, int(rng.integers(0, 30)), rng.uniform(-0.12, 0.15))
    dust = np.clip(noise(rng, shape, Noise.FINE) - 2.3, 0, 0.5)[..., None]
    image += dust * np.float32(rng.uniform(-0.4, 0.5))
    return image


def terrazzo(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Polished stone with chips."""
    chips = noise(rng, shape, Noise.FINE, zoom=rng.uniform(0.6, 1.6))
    second = noise(rng, shape, Noise.FINE, zoom=rng.uniform(0.6, 1.6))
    dark, light = pick(rng, STONES)
    image = tint(0.5 + 0.06 * noise(rng, shape, Noise.ROUGH) + 0.05 * grain(rng, shape), dark, light)
    for field, colour in ((chips, vary(rng, (0.25, 0.24, 0.23))), (second, vary(rng, (0.78, 0.74, 0.68)))):
        image += (np.asarray(colour, np.float32) - image) * np.clip((field - 1.1) * 3, 0, 0.7)[..., None]
    return image


def rusty_steel(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Corroded plate."""
    steel = tint(0.5 + 0.2 * noise(rng, shape, Noise.STREAK, angle=None), (0.30, 0.30, 0.31), (0.60, 0.60, 0.60))
    tone = 0.5 + 0.25 * noise(rng, shape, Noise.ROUGH) + 0.08 * grain(rng, shape)
    rust = tint(tone, (0.27, 0.13, 0.07), (0.66, 0.37, 0.18))
    cover = np.clip(0.6 + noise(rng, shape, Noise.ROUGH) * 0.8 + rng.uniform(-0.5, 0.6), 0, 1)[..., None]
    steel += (rust - steel) * cover
    return steel


GROUNDS: tuple[Ground, ...] = (
    concrete,
    brushed_metal,
    wood,
    fabric,
    painted_pattern,
    conveyor,
    conveyor,
    cutting_mat,
    tread_plate,
    cardboard,
    perforated,
    drawing,
    painted_bench,
    painted_bench,
    terrazzo,
    rusty_steel,
)
"""All grounds; one that stands here twice is drawn twice as often."""

WOODS = (
    ((0.36, 0.22, 0.12), (0.70, 0.48, 0.29)),
    ((0.55, 0.40, 0.25), (0.86, 0.70, 0.50)),
    ((0.22, 0.14, 0.09), (0.45, 0.30, 0.20)),
    ((0.42, 0.36, 0.30), (0.68, 0.62, 0.54)),
)
CLOTHS = (
    (0.30, 0.36, 0.48),
    (0.55, 0.50, 0.42),
    (0.62, 0.62, 0.60),
    (0.20, 0.22, 0.24),
    (0.48, 0.22, 0.18),
    (0.30, 0.40, 0.28),
)
PAINT_PAIRS = (
    ((0.10, 0.10, 0.10), (0.88, 0.70, 0.10)),
    ((0.80, 0.79, 0.76), (0.70, 0.14, 0.12)),
    ((0.22, 0.24, 0.27), (0.74, 0.74, 0.72)),
    ((0.16, 0.30, 0.48), (0.78, 0.80, 0.80)),
    ((0.35, 0.42, 0.36), (0.55, 0.60, 0.52)),
)
BELTS = ((0.16, 0.16, 0.17), (0.13, 0.22, 0.18), (0.18, 0.24, 0.34), (0.42, 0.42, 0.40), (0.62, 0.62, 0.60))
MATS = ((0.10, 0.34, 0.26), (0.12, 0.22, 0.40), (0.30, 0.31, 0.33), (0.45, 0.16, 0.22), (0.16, 0.16, 0.18))
STEEL = ((0.35, 0.36, 0.38), (0.88, 0.89, 0.90))
PLATES = (
    ((0.28, 0.28, 0.30), (0.80, 0.81, 0.82)),
    ((0.15, 0.15, 0.16), (0.48, 0.48, 0.50)),
    ((0.16, 0.24, 0.34), (0.42, 0.54, 0.66)),
    ((0.48, 0.44, 0.36), (0.84, 0.80, 0.70)),
)
SHEETS = (
    ((0.93, 0.92, 0.88), (0.12, 0.14, 0.20)),
    ((0.14, 0.26, 0.50), (0.82, 0.87, 0.93)),
    ((0.90, 0.86, 0.74), (0.30, 0.18, 0.14)),
)
BENCHES = (
    (0.35, 0.45, 0.42),
    (0.62, 0.64, 0.63),
    (0.25, 0.34, 0.50),
    (0.80, 0.79, 0.75),
    (0.20, 0.21, 0.22),
    (0.70, 0.52, 0.22),
    (0.50, 0.24, 0.20),
)
STONES = (
    ((0.62, 0.60, 0.56), (0.80, 0.78, 0.74)),
    ((0.40, 0.40, 0.41), (0.58, 0.58, 0.58)),
    ((0.55, 0.45, 0.38), (0.74, 0.64, 0.56)),
)


def draw_ground(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Draw one of `GROUNDS` with its marks of use: [height, width, 3] RGB in about [0, 1]."""
    image = GROUNDS[int(rng.integers(len(GROUNDS)))](rng, shape)
    add_marks(rng, image)
    return image


def _emboss(height: Floats, rng: np.random.Generator) -> Floats:
    """Slope of a height field toward a random direction."""
    turn = rng.uniform(0, 2 * np.pi)
    dx, dy = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125)
    return np.asarray(dx * np.cos(turn) + dy * np.sin(turn), np.float32)

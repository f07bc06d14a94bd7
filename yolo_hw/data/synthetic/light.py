# SPDX-License-Identifier: Apache-2.0
"""Light, materials and the shading of relief sprites."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
import numpy.typing as npt

from yolo_hw.data.synthetic.noise import Noise, noise
from yolo_hw.data.synthetic.solids import Floats

MAP_PX = 64
"""Side of the tables from normal (x, y) to reflected light."""


class Finish(Enum):
    """How a surface reflects."""

    POLISHED = "polished"
    SATIN = "satin"
    PAINTED = "painted"
    MATT = "matt"


@dataclass(frozen=True)
class Material:
    """A surface: colour of the reflected light, finish, wear."""

    colour: tuple[float, float, float]
    finish: Finish
    rust: float = 0.0
    """Share of the surface covered by rust, in [0, 1]."""
    mottle: float = 0.05
    """Relative deviation of the brightness over the surface."""


@dataclass(frozen=True)
class Light:
    """Lamps and surroundings of a scene.

    Attributes:
        direction: Unit vector to the main lamp; x right, y down, z to the camera.
        maps: Finish -> [64, 64, 3] light sent to the camera by a white surface of normal (x, y) in [-1, 1].
        shadow: Darkness of the main lamp's shadow, in [0, 1].
    """

    direction: npt.NDArray[np.float64]
    maps: dict[Finish, Floats]
    shadow: float


METALS = (
    (0.86, 0.88, 0.90),
    (0.74, 0.75, 0.76),
    (0.62, 0.63, 0.65),
    (0.93, 0.78, 0.42),
    (0.85, 0.70, 0.30),
    (0.90, 0.60, 0.46),
    (0.30, 0.31, 0.33),
    (0.20, 0.20, 0.22),
    (0.70, 0.66, 0.55),
)
"""Zinc, steel, dull steel, brass, yellow chromate, copper, black oxide, burnished, nickel."""
METAL_SHARES = np.array([5, 5, 4, 1.5, 1.5, 1, 2.5, 2, 1.5]) / 24
"""How often each is drawn."""
PAINTS = (
    (0.75, 0.13, 0.10),
    (0.12, 0.28, 0.62),
    (0.90, 0.68, 0.08),
    (0.12, 0.45, 0.22),
    (0.85, 0.38, 0.08),
    (0.10, 0.10, 0.11),
    (0.86, 0.85, 0.82),
    (0.42, 0.44, 0.46),
)
RUST = ((0.42, 0.20, 0.09), (0.62, 0.34, 0.16))
SEALS = ((0.07, 0.07, 0.08), (0.55, 0.12, 0.08), (0.10, 0.22, 0.50), (0.85, 0.85, 0.82), (0.35, 0.22, 0.12))


def draw_light(rng: np.random.Generator) -> Light:
    """Draw the lamps of a scene."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(32, 72))
    direction = _unit(azimuth, elevation)
    warmth = rng.normal(0, 0.06)
    lamp = np.array([1 + warmth, 1, 1 - warmth]) * rng.uniform(0.8, 1.3)
    sky = np.array([1 - warmth, 1, 1 + warmth]) * rng.uniform(0.35, 0.7)
    floor = np.array([1.0, 0.96, 0.92]) * rng.uniform(0.08, 0.25)
    lamps = [(direction, lamp * rng.uniform(1.0, 2.2))]
    for _ in range(int(rng.integers(1, 4))):
        lamps.append((_unit(rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(5, 80))), sky * rng.uniform(0.5, 1.6)))
    axis = (np.arange(MAP_PX) + 0.5) * (2 / MAP_PX) - 1
    nx, ny = np.meshgrid(axis, axis)
    nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0.0025))
    normal = np.stack([nx, ny, nz], -1) / np.sqrt(nx * nx + ny * ny + nz * nz)[..., None]
    mirror = 2 * normal[..., 2:] * normal - [0, 0, 1]
    facing = np.maximum(normal @ direction, 0)[..., None]
    matt = sky * (0.6 + 0.4 * normal[..., 2:]) + lamp * facing
    matt = matt * rng.uniform(0.75, 1.05) / matt[MAP_PX // 2, MAP_PX // 2].mean()
    polished = _surroundings(mirror, sky, floor, lamps, (0.03, 0.12))
    satin = _surroundings(mirror, sky, floor, lamps, (0.14, 0.7)) * 0.75 + 0.35 * matt
    gloss = _surroundings(mirror, sky * 0.3, floor * 0, lamps, (0.02, 0.02))
    fresnel = 0.08 + 0.5 * (1 - normal[..., 2:]) ** 4
    maps = {Finish.POLISHED: polished, Finish.SATIN: satin, Finish.PAINTED: gloss * fresnel, Finish.MATT: matt}
    return Light(direction, {k: v.astype(np.float32) for k, v in maps.items()}, rng.uniform(0.35, 0.75))


def draw_material(rng: np.random.Generator, painted: float) -> Material:
    """Draw the surface of a part; `painted` is the chance that it is paint or plastic and not metal."""
    if rng.random() < painted:
        colour, finish = PAINTS[int(rng.integers(len(PAINTS)))], Finish.PAINTED
        rust = rng.uniform(0.05, 0.3) if rng.random() < 0.15 else 0.0
    else:
        colour = METALS[int(rng.choice(len(METALS), p=METAL_SHARES))]
        finish = Finish.POLISHED if rng.random() < 0.45 else Finish.SATIN
        rust = rng.uniform(0.1, 0.9) if rng.random() < 0.2 else 0.0
    shift = np.clip(np.array(colour) * rng.normal(1, 0.04, 3) * rng.uniform(0.85, 1.1), 0.02, 1)
    return Material((float(shift[0]), float(shift[1]), float(shift[2])), finish, rust, rng.uniform(0.02, 0.08))


def draw_seal(rng: np.random.Generator) -> Material:
    """Draw the second material of a part: rubber or nylon."""
    return Material(SEALS[int(rng.choice(len(SEALS), p=[0.5, 0.12, 0.14, 0.14, 0.1]))], Finish.PAINTED, 0.0, 0.03)


def shade(
    rng: np.random.Generator, planes: tuple[Floats, ...], materials: tuple[Material, Material], light: Light
) -> Floats:
    """Light the surface of a part.

    Args:
        rng: Draws the wear.
        planes: Normal x, normal y, ambient light, share of the second material: [H, W] each.
        materials: Main and second material.
        light: The scene's light.

    Returns:
        [H, W, 3] colour, 1 is white before the camera's exposure.
    """
    nx, ny, ambient, zone = planes
    shape = (nx.shape[0], nx.shape[1])
    mottle = noise(rng, shape, Noise.ROUGH, angle=None)
    brushed = noise(rng, shape, Noise.STREAK, angle=None, zoom=(0.6, 1.0))
    wobble = np.float32(materials[0].mottle)
    x, y = nx + wobble * brushed, ny + wobble * 0.6 * mottle
    colour: Floats = _reflected(materials[0], light, x, y) * (1 + wobble * mottle)[..., None]
    if materials[0].rust:
        colour = _rusted(rng, colour, materials[0].rust, light.maps[Finish.MATT], (x, y))
    if zone.any():
        colour += (_reflected(materials[1], light, nx, ny) - colour) * zone[..., None]
    colour *= ambient[..., None]
    return colour


def _reflected(material: Material, light: Light, x: Floats, y: Floats) -> Floats:
    colour = np.asarray(material.colour, np.float32)
    if material.finish in (Finish.POLISHED, Finish.SATIN):
        mirrored: Floats = _look_up(light.maps[material.finish], x, y) * colour
        return mirrored
    scattered: Floats = _look_up(light.maps[Finish.MATT], x, y) * colour
    return scattered + _look_up(light.maps[Finish.PAINTED], x, y)


def _rusted(
    rng: np.random.Generator, colour: Floats, share: float, matt: Floats, normal: tuple[Floats, Floats]
) -> Floats:
    """Cover a share of the surface with rust."""
    shape = (colour.shape[0], colour.shape[1])
    blots = noise(rng, shape, Noise.ROUGH, angle=None, zoom=rng.uniform(0.3, 0.8))
    cover = np.clip((blots + np.float32(3.2 * share - 1.6)) * 1.5, 0, 1)[..., None]
    tone = np.clip(0.5 + 0.35 * noise(rng, shape, Noise.FINE), 0, 1)[..., None]
    dark, light = (np.asarray(entry, np.float32) for entry in RUST)
    rust: Floats = dark + (light - dark) * tone
    colour += (rust * _look_up(matt, *normal) - colour) * cover
    return colour


def _look_up(table: Floats, x: Floats, y: Floats) -> Floats:
    """Return the light of normals (x, y): [H, W] each to [H, W, 3]."""
    scale = np.float32(MAP_PX / 2)
    u, v = x * scale + (scale - np.float32(0.5)), y * scale + (scale - np.float32(0.5))
    return np.asarray(cv2.remap(table, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _surroundings(
    mirror: npt.NDArray[np.float64],
    sky: npt.NDArray[np.float64],
    floor: npt.NDArray[np.float64],
    lamps: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]],
    softness: tuple[float, float],
) -> npt.NDArray[np.float64]:
    """Light that arrives from direction `mirror` [..., 3]: floor below, sky above, lamps of a given angular size."""
    blend = 1 / (1 + np.exp(-mirror[..., 2:] / softness[1] * 2))
    light = floor + (sky - floor) * blend
    for direction, colour in lamps:
        light = light + colour * np.exp((mirror @ direction - 1) / softness[0])[..., None]
    return light


def _unit(azimuth: float, elevation: float) -> npt.NDArray[np.float64]:
    cos = np.cos(elevation)
    return np.array([cos * np.cos(azimuth), cos * np.sin(azimuth), np.sin(elevation)])

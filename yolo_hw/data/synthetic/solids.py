# SPDX-License-Identifier: Apache-2.0
"""Machine parts as signed distance functions, each drawn from a random generator.

A distance function maps points to (a lower bound of) their distance from the surface, negative inside;
the primitives are those of Hart, "Sphere Tracing", The Visual Computer 1996, appendix A. All solids fit the
unit ball around the origin; their main axis is z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
"""Coordinates, distances and images; float32 wherever there are many of them."""
Distance = Callable[[Floats, Floats, Floats], Floats]
"""x, y, z [P] each to distance [P]."""

SQRT3_HALF = float(np.sqrt(3.0) / 2.0)


class Rest(Enum):
    """How a part lies on the bench, seen from above."""

    FLAT = "flat"
    """The axis points up, leaning by up to `Solid.lean`."""
    LYING = "lying"
    """The axis is parallel to the bench, up to `Solid.lean`."""
    ANY = "any"
    """Any orientation."""


@dataclass(frozen=True)
class Solid:
    """One part.

    Attributes:
        distance: Distance function of the whole part.
        rest: Its natural pose.
        lean: Largest deviation from that pose, in radians.
        zone: Distance function of the region with the part's second material (a seal, an insert), if it has one.
        turned: Strength of the concentric tool marks on faces across the axis.
        caution: Factor on the marching step, below 1 where `distance` overestimates (threads, teeth).
        painted: Chance that the part is painted or plastic.
    """

    distance: Distance
    rest: Rest
    lean: float
    zone: Distance | None = None
    turned: float = 0.0
    caution: float = 0.9
    painted: float = 0.15


def bolt(rng: np.random.Generator) -> Solid:
    """Draw a screw: hexagon, cylinder, button or countersunk head, with or without a flange, full or partial thread."""
    radius = rng.uniform(0.09, 0.17)
    head_radius = radius * rng.uniform(1.65, 2.05)
    head_height = radius * rng.uniform(1.1, 1.5)
    half = float(np.sqrt(0.97**2 - head_radius**2))
    top = half - head_height
    length = min(2 * half - head_height, radius * rng.uniform(4.5, 14.0))
    bottom = top - length
    pitch, depth = radius * rng.uniform(0.38, 0.6), radius * 0.14
    thread_top = top - length * rng.choice([0.0, 0.0, rng.uniform(0.25, 0.6)])
    shift = (top + head_height + bottom) / 2
    head = _bolt_head(rng, head_radius, head_height)
    flange = head_radius * 1.25 if rng.random() < 0.2 else 0.0

    def distance(x: Floats, y: Floats, z: Floats) -> Floats:
        z = z + shift
        r = np.hypot(x, y)
        groove = depth * _triangle(z / pitch - np.arctan2(y, x) / (2 * np.pi))
        groove *= (z < thread_top) * np.clip((z - bottom) / (2 * radius) + 0.4, 0, 1)
        taper = np.maximum(bottom + 0.5 * radius - z, 0) * 0.6
        shank = _extruded(r - radius + groove + taper, z - (top + bottom) / 2, length / 2 + 0.02, 0.02)
        d = _union(shank, head(x, y, z - top))
        if flange:
            d = _union(d, _extruded(r - flange, z - top - 0.03, 0.04, 0.02))
        return d

    return Solid(distance, Rest.LYING, np.radians(52), turned=0.15, caution=0.65)


def _bolt_head(rng: np.random.Generator, radius: float, height: float) -> Distance:
    """Return the head standing on z = 0, with its drive."""
    kind = rng.choice(["hexagon", "hexagon", "hexagon", "socket", "button", "slotted"])
    drive = radius * rng.uniform(0.42, 0.52)

    def hexagon(x: Floats, y: Floats, z: Floats) -> Floats:
        d = _extruded(_hexagon(x, y) - radius * SQRT3_HALF, z - height / 2, height / 2, 0.012)
        return _common(d, 0.5 * np.hypot(x, y) + SQRT3_HALF * (z - height * 0.78) - 0.5 * radius * 0.93)

    def socket(x: Floats, y: Floats, z: Floats) -> Floats:
        d = _extruded(np.hypot(x, y) - radius * 0.9, z - height * 0.6, height * 0.6, 0.03)
        return _common(d, -_common(_hexagon(x, y) - drive, 0.5 * height - z))

    def button(x: Floats, y: Floats, z: Floats) -> Floats:
        ball = np.sqrt(x * x + y * y + (z + radius * 0.55) ** 2) - radius * 1.18
        return _common(ball, -z, -_common(_hexagon(x, y) - drive * 0.8, height * 0.2 - z))

    def slotted(x: Floats, y: Floats, z: Floats) -> Floats:
        d = _extruded(np.hypot(x, y) - radius * 0.95, z - height * 0.4, height * 0.4, 0.05)
        return _common(d, -_common(np.abs(x) - radius * 0.12, height * 0.45 - z))

    return {"hexagon": hexagon, "socket": socket, "button": button, "slotted": slotted}[str(kind)]


def nut(rng: np.random.Generator) -> Solid:
    """Draw a hexagon or square nut: plain, with a flange, or with a nylon insert."""
    outer = 0.9
    bore = outer * rng.uniform(0.46, 0.58)
    half = outer * rng.uniform(0.34, 0.46)
    kind = rng.choice(["plain", "plain", "plain", "flange", "insert", "square"])
    pitch, depth = bore * rng.uniform(0.2, 0.3), bore * 0.09
    apothem = outer * SQRT3_HALF * (0.85 if kind == "flange" else 1.0)

    def distance(x: Floats, y: Floats, z: Floats) -> Floats:
        r = np.hypot(x, y)
        if kind == "square":
            body = _extruded(_common(np.abs(x), np.abs(y)) - outer * 0.68, z, half * 0.9, 0.05)
        else:
            body = _extruded(_hexagon(x, y) - apothem, z, half, 0.02)
            body = _common(body, 0.5 * r + SQRT3_HALF * (np.abs(z) - half * 0.8) - 0.5 * apothem * 1.04)
        if kind == "flange":
            body = _union(body, _extruded(r - outer, z + half * 0.82, half * 0.18, 0.04))
        if kind == "insert":
            body = _union(body, _extruded(r - bore * 1.42, z - half * 0.8, half * 0.45, 0.06))
        groove = depth * _triangle(z / pitch - np.arctan2(y, x) / (2 * np.pi))
        return _common(body, bore - r - groove)

    def insert(x: Floats, y: Floats, z: Floats) -> Floats:
        return _common(np.hypot(x, y) - bore * 1.22, half * 0.9 - z)

    zone = insert if kind == "insert" else None
    return Solid(distance, Rest.FLAT, np.radians(48), zone, turned=0.35, caution=0.75)


def washer(rng: np.random.Generator) -> Solid:
    """Draw a flat washer (narrow to wide), a split lock washer, a toothed washer or one with a bonded rubber seal."""
    outer = 0.93
    kind = rng.choice(["flat", "flat", "flat", "split", "toothed", "bonded"])
    bore = outer * (rng.uniform(0.58, 0.68) if kind in ("split", "toothed") else rng.uniform(0.36, 0.62))
    half = outer * (rng.uniform(0.07, 0.1) if kind == "split" else rng.uniform(0.03, 0.06))
    teeth, depth = int(rng.integers(8, 16)), outer * 0.13

    def distance(x: Floats, y: Floats, z: Floats) -> Floats:
        r = np.hypot(x, y)
        if kind == "split":
            z = z - 0.12 * np.arctan2(y, x) / np.pi
            ring = _extruded(np.abs(r - (outer + bore) / 2) - (outer - bore) / 2, z, half, 0.03)
            return _common(ring, -_common(np.abs(y + 0.25 * (x + outer)) - 0.035, x))
        rim = outer
        if kind == "toothed":
            angle = np.arctan2(y, x)
            rim = outer - depth * np.clip(0.5 + 1.6 * np.cos(teeth * angle), 0, 1)
            z = z - 0.06 * np.sin(teeth * angle) * np.clip((r - bore) / (outer - bore), 0, 1)
        return _common(_extruded(r - rim, z, half, 0.025), bore - r)

    def seal(x: Floats, y: Floats, z: Floats) -> Floats:
        return np.hypot(x, y) - (bore + 0.45 * (outer - bore))

    zone = seal if kind == "bonded" else None
    return Solid(distance, Rest.FLAT, np.radians(50), zone, turned=0.5, caution=0.7)


def gear(rng: np.random.Generator) -> Solid:
    """Draw a spur gear: 10 to 30 teeth, bore with or without keyway, hub, recessed web, lightening holes."""
    outer = 0.93
    teeth = int(rng.integers(10, 31))
    depth = outer * min(2.6 / teeth, 0.2)
    half = outer * rng.uniform(0.09, 0.26)
    bore = outer * rng.uniform(0.13, 0.3)
    hub = bore + outer * rng.uniform(0.08, 0.16)
    hub_half = half + outer * rng.choice([0.0, rng.uniform(0.05, 0.18)])
    rim = outer - depth - outer * 0.12
    web = half * rng.choice([1.0, rng.uniform(0.4, 0.7)])
    holes = int(rng.choice([0, 0, 4, 5, 6])) if rim - hub > 0.3 else 0
    hole_radius = min(0.36 * (rim - hub), 0.7 * (rim + hub) / 2 * np.pi / max(holes, 1))
    key = bore * rng.choice([0.0, 0.28])

    def distance(x: Floats, y: Floats, z: Floats) -> Floats:
        r, angle = np.hypot(x, y), np.arctan2(y, x)
        tooth = np.clip(0.5 + 1.1 * np.cos(teeth * angle) - 0.35 * (r - outer + depth / 2) / depth, 0, 1)
        d = _extruded(r - (outer - depth) - depth * tooth, z, half, 0.02)
        if web < half:
            d = _common(d, -_common(hub - r, r - rim, web - np.abs(z)))
        if holes:
            folded = _fold(angle, holes)
            middle = (rim + hub) / 2
            hole = np.hypot(r * np.cos(folded) - middle, r * np.sin(folded)) - hole_radius
            d = _common(d, -hole)
        d = _union(d, _extruded(r - hub, z, hub_half, 0.02))
        opening: Floats = r - bore
        if key:
            opening = _union(opening, _common(np.abs(x) - key, np.abs(y - bore) - bore * 0.3))
        return _common(d, -opening)

    return Solid(distance, Rest.FLAT, np.radians(50), turned=0.4, caution=0.55, painted=0.35)


def bearing(rng: np.random.Generator) -> Solid:
    """Draw a ball bearing: open with visible balls, or closed by metal shields or rubber seals."""
    outer = 0.92
    bore = outer * rng.uniform(0.36, 0.58)
    half = outer * rng.uniform(0.17, 0.28)
    wall = 0.24 * (outer - bore)
    middle, gap = (outer + bore) / 2, (outer - bore) / 2 - wall
    kind = rng.choice(["open", "open", "shield", "seal", "seal"])
    ball = min((outer - bore) * 0.3, half * 0.95)
    balls = int(2 * np.pi * middle / (2.35 * ball))

    def distance(x: Floats, y: Floats, z: Floats) -> Floats:
        r = np.hypot(x, y)
        outer_ring = _extruded(np.abs(r - (outer - wall / 2)) - wall / 2, z, half, 0.03)
        inner_ring = _extruded(np.abs(r - (bore + wall / 2)) - wall / 2, z, half, 0.03)
        d = _union(outer_ring, inner_ring)
        if kind == "open":
            folded = _fold(np.arctan2(y, x), balls)
            spheres = np.sqrt((r * np.cos(folded) - middle) ** 2 + (r * np.sin(folded)) ** 2 + z * z) - ball
            cage = _extruded(np.abs(r - middle) - gap * 0.45, z, half * 0.35, 0.02)
            return _union(d, spheres, cage)
        dish = half * 0.86 - 0.05 * (np.abs(r - middle) < gap * 0.7)
        return _union(d, _extruded(np.abs(r - middle) - gap, z, dish, 0.015))

    def shield(x: Floats, y: Floats, z: Floats) -> Floats:
        return np.abs(np.hypot(x, y) - middle) - gap - 0.004

    zone = shield if kind != "open" and rng.random() < 0.85 else None
    return Solid(distance, Rest.FLAT, np.radians(52), zone, turned=0.45, caution=0.8, painted=0.0)


def spring(rng: np.random.Generator) -> Solid:
    """Draw a helical spring: compression, conical, or tension with end loops."""
    kind = rng.choice(["compression", "compression", "conical", "tension"])
    coil = rng.uniform(0.2, 0.38)
    wire = coil * (rng.uniform(0.11, 0.2) if kind != "tension" else rng.uniform(0.12, 0.17))
    pitch = wire * (2.15 if kind == "tension" else rng.uniform(3.0, 6.0))
    loops = coil * 1.5 if kind == "tension" else 0.0
    half = min(0.95 - coil - loops * 0.5, rng.uniform(0.45, 0.9))
    cone = rng.uniform(0.25, 0.5) if kind == "conical" else 0.0

    def distance(x: Floats, y: Floats, z: Floats) -> Floats:
        r, turn = np.hypot(x, y), np.arctan2(y, x) / (2 * np.pi)
        radius = coil * (1 - cone * (z / half * 0.5 + 0.5)) if cone else coil
        nearest = np.clip(np.round(z / pitch - turn), np.ceil(-half / pitch - turn), np.floor(half / pitch - turn))
        d = np.hypot(r - radius, z - (nearest + turn) * pitch) - wire
        if loops:
            for side in (-1.0, 1.0):
                ring = np.hypot(np.hypot(y, z - side * (half + coil * 0.9)) - coil * 0.85, x) - wire
                d = _union(d, ring)
        return d

    return Solid(distance, Rest.LYING, np.radians(42), caution=0.6, painted=0.25)


def clutter(rng: np.random.Generator) -> Solid:
    """Draw something that is none of the parts: a pin, a block, a ball, a bracket, a disc, a sleeve cut in half."""
    kind = rng.choice(["pin", "block", "ball", "bracket", "disc", "trough"])
    a, b, c = rng.uniform(0.12, 0.3), rng.uniform(0.3, 0.7), rng.uniform(0.06, 0.2)

    def distance(x: Floats, y: Floats, z: Floats) -> Floats:
        if kind == "pin":
            return _extruded(np.hypot(x, y) - a, z, 0.9, 0.05)
        if kind == "block":
            return _extruded(_common(np.abs(x) - b, np.abs(y) - a), z, 0.6, 0.04)
        if kind == "ball":
            return np.sqrt(x * x + y * y + z * z) - 0.9
        if kind == "bracket":
            foot = _common(np.abs(x) - 0.6, np.abs(y) - b, np.abs(z + 0.4) - 0.08)
            wall = _common(np.abs(x + 0.52) - 0.08, np.abs(y) - b, np.abs(z - 0.05) - 0.5)
            return _union(foot, wall)
        if kind == "disc":
            return _extruded(np.hypot(x, y) - 0.9, z, c, 0.05)
        r = np.hypot(x, y)
        return _common(_extruded(np.abs(r - b) - 0.06, z, 0.65, 0.03), x)

    rest = {"disc": Rest.FLAT, "pin": Rest.LYING, "trough": Rest.LYING}.get(str(kind), Rest.ANY)
    return Solid(distance, rest, np.radians(35), turned=0.2, painted=0.45)


PARTS: dict[str, Callable[[np.random.Generator], Solid]] = {
    "bolt": bolt,
    "nut": nut,
    "washer": washer,
    "gear": gear,
    "bearing": bearing,
    "spring": spring,
}
"""Class name -> generator of one part; the order is the order of the class labels."""


def _extruded(d2: Floats, z: Floats, half: float | Floats, bevel: float) -> Floats:
    """Distance of the prism over a 2-D distance, |z| <= half, with rounded edges of radius `bevel`."""
    side, cap = d2 + np.float32(bevel), np.abs(z) - half + np.float32(bevel)
    outside = np.hypot(np.maximum(side, 0), np.maximum(cap, 0))
    return np.asarray(np.minimum(np.maximum(side, cap), 0) + outside - np.float32(bevel), np.float32)


def _union(first: Floats, *others: Floats) -> Floats:
    """Distance of what is inside any of the solids."""
    for other in others:
        first = np.minimum(first, other)
    return first


def _common(first: Floats, *others: Floats) -> Floats:
    """Distance of what is inside all of the solids; a solid is hollowed by the negative of another."""
    for other in others:
        first = np.maximum(first, other)
    return first


def _hexagon(x: Floats, y: Floats) -> Floats:
    """Apothem of the regular hexagon through a point."""
    ax, ay = np.abs(x), np.abs(y)
    return np.maximum(ay, SQRT3_HALF * ax + 0.5 * ay)


def _fold(angle: Floats, count: int) -> Floats:
    """Map an angle into the sector around 0 of `count` equal sectors."""
    sector = 2 * np.pi / count
    folded: Floats = angle - np.round(angle / sector) * np.float32(sector)
    return folded


def _triangle(turns: Floats) -> Floats:
    """Triangle wave of period 1 in [0, 1]."""
    return 2 * np.abs(turns - np.round(turns))

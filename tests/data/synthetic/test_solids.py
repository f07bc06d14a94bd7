# SPDX-License-Identifier: Apache-2.0
"""Solids and sprites: known shapes give known pictures."""

from __future__ import annotations

import numpy as np
import pytest

from yolo_hw.data.synthetic.solids import PARTS, Rest, Solid, clutter
from yolo_hw.data.synthetic.sprites import SPRITE_PX, sprite, trace_sprite


def ball(radius):
    return Solid(lambda x, y, z: np.sqrt(x * x + y * y + z * z) - radius, Rest.ANY, 0.0)


def test_ball_is_a_disc_with_radial_normals():
    image = trace_sprite(ball(0.8), np.eye(3))
    inside = image.relief[..., 2] > 127
    height, width = inside.shape
    side = inside.any(0).sum()
    assert inside.any(1).sum() == side
    assert inside.sum() == pytest.approx(np.pi * side**2 / 4, rel=0.02)
    y, x = np.mgrid[:height, :width]
    radius = side / 2
    nx = (x - (width - 1) / 2) / radius
    ny = (y - (height - 1) / 2) / radius
    core = np.hypot(nx, ny) < 0.9
    np.testing.assert_allclose((image.relief[..., 0][core] - 128.0) / 127, nx[core], atol=0.04)
    np.testing.assert_allclose((image.relief[..., 1][core] - 128.0) / 127, ny[core], atol=0.04)


def test_ball_rises_by_its_radius_above_its_rim():
    assert trace_sprite(ball(0.8), np.eye(3)).rise == pytest.approx(0.5, abs=0.03)


def test_second_material_covers_its_region_only():
    half = Solid(ball(0.8).distance, Rest.ANY, 0.0, zone=lambda x, y, z: x)
    zone = trace_sprite(half, np.eye(3)).detail[..., 2]
    width = zone.shape[1]
    assert (zone[40:-40, : width // 2 - 4] == 255).all()
    assert (zone[40:-40, width // 2 + 4 :] == 0).all()


@pytest.mark.parametrize("label", [-1, *range(len(PARTS))])
def test_every_part_fills_its_sprite(label):
    image = sprite(label, 0)
    inside = image.relief[..., 2] > 127
    longer = max(inside.any(0).sum(), inside.any(1).sum())
    assert 0.8 * SPRITE_PX <= longer <= SPRITE_PX
    assert inside[0].sum() == inside[-1].sum() == inside[:, 0].sum() == inside[:, -1].sum() == 0


@pytest.mark.parametrize("make", [*PARTS.values(), clutter])
def test_solids_fit_the_unit_ball(make):
    for seed in range(6):
        solid = make(np.random.default_rng(seed))
        points = np.random.default_rng(1).normal(size=(3, 4000))
        x, y, z = (points / np.linalg.norm(points, axis=0) * 1.001).astype(np.float32)
        assert (solid.distance(x, y, z) > 0).all()


@pytest.mark.parametrize("name", ["nut", "washer", "bearing", "gear"])
def test_parts_with_a_bore_are_open_in_the_middle(name):
    for seed in range(6):
        solid = PARTS[name](np.random.default_rng(seed))
        z = np.linspace(-1, 1, 101, dtype=np.float32)
        assert (solid.distance(0 * z, 0 * z, z) > 0).all()

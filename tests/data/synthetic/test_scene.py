# SPDX-License-Identifier: Apache-2.0
"""The generated set: pure in (seed, index), true boxes, readable on disk."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import DataLoader

from yolo_hw.data import open_dataset, read_image, read_names, read_yolo
from yolo_hw.data.synthetic.dataset import SyntheticDataset, write_dataset
from yolo_hw.data.synthetic.layout import SceneConfig
from yolo_hw.data.synthetic.scene import PART_NAMES, generate_scene
from yolo_hw.errors import DataError

SMALL = SceneConfig(min_side_px=96, max_side_px=128, max_objects=5, min_part_px=12.0)


@pytest.fixture(scope="module")
def scenes():
    return [generate_scene(3, index, SMALL) for index in range(12)]


def test_same_seed_and_index_give_the_same_scene(scenes):
    for index in (7, 2):  # in another order than the fixture's
        again = generate_scene(3, index, SMALL)
        np.testing.assert_array_equal(again.image, scenes[index].image)
        np.testing.assert_array_equal(again.boxes, scenes[index].boxes)
        np.testing.assert_array_equal(again.labels, scenes[index].labels)


def test_another_seed_or_index_gives_another_scene(scenes):
    images = {scene.image.tobytes() for scene in scenes}
    assert len(images) == len(scenes)
    assert generate_scene(4, 0, SMALL).image.tobytes() not in images


def test_worker_processes_give_the_same_images(scenes):
    data = SyntheticDataset(3, 6, SMALL)
    loaded = list(DataLoader(data, batch_size=None, num_workers=2))
    assert len(loaded) == 6
    for sample, scene in zip(loaded, scenes, strict=False):
        np.testing.assert_array_equal(sample.image, scene.image)
        np.testing.assert_array_equal(sample.boxes, scene.boxes)


def test_boxes_are_the_tight_hull_of_the_silhouettes(scenes):
    checked = 0
    for scene in scenes:
        height, width = scene.image.shape[:2]
        for part, box, area in zip(scene.placed, scene.boxes, scene.areas, strict=True):
            mask = np.zeros((3 * height, 3 * width), bool)  # the image with a margin as wide as itself
            top, left = height + part.top, width + part.left
            mask[top : top + part.alpha.shape[0], left : left + part.alpha.shape[1]] = part.alpha > 0.5
            inside = mask[height : 2 * height, width : 2 * width]
            ys, xs = np.nonzero(inside)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert area == inside.sum()
            checked += 1
    assert checked >= len(scenes)


def test_boxes_lie_inside_the_image(scenes):
    for scene in scenes:
        height, width = scene.image.shape[:2]
        assert (scene.boxes[:, :2] >= 0).all()
        assert (scene.boxes[:, 2:] <= [width, height]).all()
        assert (scene.boxes[:, 2:] > scene.boxes[:, :2]).all()
        assert set(scene.labels.tolist()) <= set(range(len(PART_NAMES)))


def test_enough_of_every_part_is_visible(scenes):
    crowded = SceneConfig(min_side_px=96, max_side_px=96, max_objects=60, min_part_px=20.0)
    heaps = [generate_scene(6, index, crowded) for index in range(6)]
    assert max(len(scene.labels) for scene in heaps) > 12
    for scene in [*scenes, *heaps]:
        owner = np.full(scene.image.shape[:2], -1)
        for number, part in enumerate(scene.placed):
            rows, columns, patch_rows, patch_columns = part.window(owner.shape)
            owner[rows, columns][part.alpha[patch_rows, patch_columns] > 0.5] = number
        for number, part in enumerate(scene.placed):
            assert (owner == number).sum() >= 0.25 * (part.alpha > 0.5).sum()


def test_parts_are_drawn_where_their_silhouettes_are():
    """A part's pixels differ from the picture of the same scene without its colour, the rest hardly does."""
    scene = generate_scene(5, 0, SceneConfig(min_side_px=200, max_side_px=200, max_objects=1, clutter=0.0))
    assert len(scene.placed) == 1
    part = scene.placed[0]
    rows, columns, patch_rows, patch_columns = part.window(scene.image.shape[:2])
    inside = np.zeros(scene.image.shape[:2], bool)
    inside[rows, columns] = part.alpha[patch_rows, patch_columns] > 0.5
    grey = scene.image.astype(float).mean(2)
    edges = np.hypot(*np.gradient(grey))
    border = inside ^ np.roll(inside, 1, 0) | inside ^ np.roll(inside, 1, 1)
    assert edges[border].mean() > 2 * np.median(edges)


def test_image_sizes_vary_within_the_limits(scenes):
    shapes = {scene.image.shape[:2] for scene in scenes}
    assert len(shapes) > 3
    assert all(96 <= side <= 128 for shape in shapes for side in shape)
    assert any(height != width for height, width in shapes)


def test_written_set_reads_back_as_coco_and_as_yolo(tmp_path):
    write_dataset(tmp_path / "set", 3, 11, SMALL)
    scenes = [generate_scene(11, index, SMALL) for index in range(3)]
    coco = open_dataset(tmp_path / "set")
    names = read_names(tmp_path / "set" / "parts.names")
    yolo = read_yolo(sorted((tmp_path / "set" / "images").glob("*.jpg")), names)
    assert coco.names == yolo.names == PART_NAMES
    for scene, a, b in zip(scenes, coco.items, yolo.items, strict=True):
        assert a.size == b.size == scene.image.shape[:2]
        np.testing.assert_array_equal(a.boxes, scene.boxes)
        np.testing.assert_allclose(b.boxes, scene.boxes, atol=1e-3)  # six decimals of 128 pixels
        np.testing.assert_array_equal(a.labels, scene.labels)
        np.testing.assert_array_equal(b.labels, scene.labels)
        np.testing.assert_array_equal(a.areas, scene.areas)
        error = np.abs(read_image(a.path).astype(int) - scene.image).mean()
        assert error < 6  # JPEG


def test_write_replaces_an_older_set(tmp_path):
    write_dataset(tmp_path / "set", 2, 1, SMALL)
    write_dataset(tmp_path / "set", 1, 2, SMALL)
    assert len(open_dataset(tmp_path / "set")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_side_px": 500}, "min_side_px <= max_side_px"),
        ({"max_objects": 0}, "max_objects must be in"),
        ({"min_part_px": 200.0}, "min_part_px must be at least 4 and below"),
        ({"min_visible": 0.0}, "min_visible must be in"),
        ({"clutter": -1.0}, "clutter must be in"),
    ],
)
def test_config_refuses_what_cannot_be(options, message):
    with pytest.raises(DataError, match=message):
        SceneConfig(**options)


def test_dataset_refuses_an_empty_set_and_a_wrong_index():
    with pytest.raises(DataError, match="count must be at least 1"):
        SyntheticDataset(0, 0)
    with pytest.raises(IndexError):
        SyntheticDataset(0, 2, SMALL)[2]

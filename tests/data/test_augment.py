# SPDX-License-Identifier: Apache-2.0
"""Augmentation: what happens to the pixels happens to the boxes."""

from __future__ import annotations

import numpy as np
import pytest

from yolo_hw.data.augment import (
    NO_AUGMENTATION,
    AugmentConfig,
    LabelledImage,
    augment,
    flipped,
    jitter_colour,
    transposed,
)
from yolo_hw.errors import DataError


def marked(boxes):
    """An image that is 255 in its boxes and 0 elsewhere."""
    image = np.zeros((20, 30, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
    return LabelledImage(image, np.array(boxes, np.float64), np.arange(len(boxes)))


def assert_boxes_match_pixels(sample):
    expected = np.zeros_like(sample.image)
    for x1, y1, x2, y2 in sample.boxes.astype(int):
        expected[y1:y2, x1:x2] = 255
    np.testing.assert_array_equal(sample.image, expected)


BOXES = [(2, 3, 9, 8), (20, 1, 29, 19)]


@pytest.mark.parametrize(("flip_x", "flip_y"), [(True, False), (False, True), (True, True)])
def test_flipping_moves_boxes_with_their_pixels(flip_x, flip_y):
    sample = marked(BOXES)
    result = flipped(sample, flip_x, flip_y)
    assert_boxes_match_pixels(result)
    assert not np.array_equal(result.boxes, sample.boxes)
    np.testing.assert_array_equal(flipped(result, flip_x, flip_y).boxes, sample.boxes)


def test_flipping_gives_the_known_box():
    assert flipped(marked([(2, 3, 9, 8)]), True, False).boxes.tolist() == [[21, 3, 28, 8]]
    assert flipped(marked([(2, 3, 9, 8)]), False, True).boxes.tolist() == [[2, 12, 9, 17]]


def test_transposing_moves_boxes_with_their_pixels():
    result = transposed(marked(BOXES))
    assert result.image.shape == (30, 20, 3)
    assert_boxes_match_pixels(result)


def test_augmentation_keeps_boxes_true_whatever_is_drawn():
    config = AugmentConfig(flip_x=0.5, flip_y=0.5, transpose=0.5, hue=0.0, saturation=0.0, value=0.0)
    results = [augment(marked(BOXES), np.random.default_rng(seed), config) for seed in range(80)]
    for result in results:
        assert_boxes_match_pixels(result)
    assert len({result.boxes.tobytes() for result in results}) == 8  # all of the square's symmetries


def test_augmentation_does_not_change_its_argument():
    sample = marked(BOXES)
    before = sample.image.copy()
    augment(sample, np.random.default_rng(0), AugmentConfig(flip_x=1.0, flip_y=1.0, transpose=1.0))
    np.testing.assert_array_equal(sample.image, before)
    assert sample.boxes.tolist() == [list(box) for box in BOXES]


def test_no_augmentation_changes_nothing():
    sample = marked(BOXES)
    result = augment(sample, np.random.default_rng(0), NO_AUGMENTATION)
    np.testing.assert_array_equal(result.image, sample.image)
    np.testing.assert_array_equal(result.boxes, sample.boxes)


def test_colour_jitter_does_what_its_factors_say():
    image = np.full((2, 2, 3), (200, 100, 100), np.uint8)
    assert jitter_colour(image, 0.0, 1.0, 0.5)[0, 0].tolist() == [100, 50, 50]
    assert jitter_colour(image, 0.0, 0.0, 1.0)[0, 0].tolist() == [200, 200, 200]
    assert jitter_colour(image, 1 / 3, 1.0, 1.0)[0, 0].tolist() == [100, 200, 100]


@pytest.mark.parametrize("options", [{"flip_x": 1.5}, {"saturation": -0.1}, {"hue": 0.6}])
def test_config_refuses_what_cannot_be(options):
    with pytest.raises(DataError, match=next(iter(options))):
        AugmentConfig(**options)

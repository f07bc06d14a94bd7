# SPDX-License-Identifier: Apache-2.0
"""Boxes stay true: coloured rectangles are painted, the picture is transformed, and they are found again by colour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_hw.data.affine import (
    AffineRanges,
    cropped,
    mapped_boxes,
    random_affine,
    resized,
    scaled,
    shifted,
    warped,
)
from yolo_hw.data.augment import (
    NO_AUGMENTATION,
    AugmentConfig,
    LabelledImage,
    augmented,
    batch_size_px,
    without_mixing,
)
from yolo_hw.data.mosaic import mixup, mosaic
from yolo_hw.data.preprocess import LETTERBOX_FILL
from yolo_hw.errors import DataError

HEIGHT, WIDTH = 96, 128
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
"""By label; neither the ground nor the fill comes near any of them."""


@st.composite
def painted(draw, labels=range(2)):
    """An image with one rectangle of its own colour for each label, none over another."""
    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    boxes = []
    for column, label in enumerate(labels):
        left, width = column * WIDTH // len(labels), WIDTH // len(labels)
        x1, y1 = draw(st.integers(left, left + width - 12)), draw(st.integers(0, HEIGHT - 12))
        x2, y2 = draw(st.integers(x1 + 10, left + width - 1)), draw(st.integers(y1 + 10, HEIGHT))
        image[y1:y2, x1:x2] = COLOURS[label]
        boxes.append([x1, y1, x2, y2])
    return LabelledImage(image, np.array(boxes, np.float64), np.array(list(labels)))


def painted_like(seed, labels=range(2)):
    """The same without hypothesis, for sources."""
    rng = np.random.default_rng(seed)
    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    boxes = []
    for column, label in enumerate(labels):
        left, width = column * WIDTH // len(labels), WIDTH // len(labels)
        x1, y1 = int(rng.integers(left, left + width - 24)), int(rng.integers(0, HEIGHT - 24))
        x2, y2 = x1 + int(rng.integers(20, left + width - x1)), y1 + int(rng.integers(20, HEIGHT - y1))
        image[y1:y2, x1:x2] = COLOURS[label]
        boxes.append([x1, y1, x2, y2])
    return LabelledImage(image, np.array(boxes, np.float64), np.array(list(labels)))


def found_again(image, label):
    """Return x1, y1, x2, y2 of the pixels that are nearer to a label's colour than half, or None."""
    distance = np.abs(image.astype(int) - COLOURS[label]).sum(2)
    rows, columns = np.nonzero(distance < np.abs(COLOURS[label].astype(int) - 60).sum() / 2)
    if not len(rows):
        return None
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float64)


def assert_true(sample, tolerance, exact=True):
    """Every box holds its colour, tightly if `exact`, and every colour that is well in view has a box."""
    height, width = sample.size
    assert (sample.boxes >= 0).all()
    assert (sample.boxes[:, 2:] <= [width, height]).all()
    for label, box in zip(sample.labels, sample.boxes, strict=True):
        seen = found_again(sample.image, label)
        assert seen is not None
        assert (seen[:2] >= box[:2] - tolerance).all()
        assert (seen[2:] <= box[2:] + tolerance).all()
        if exact:
            np.testing.assert_allclose(seen, box, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(painted(), st.floats(0.6, 1.6), st.floats(0.6, 1.6), st.floats(-40, 40), st.floats(-30, 30))
def test_scale_and_shift(sample, scale_x, scale_y, x, y):
    result = warped(sample, shifted(x, y) @ scaled(scale_x, scale_y), (HEIGHT, WIDTH), 0.0)
    assert_true(result, 1.0)
    for label in set(sample.labels.tolist()) - set(result.labels.tolist()):
        seen = found_again(result.image, label)
        assert seen is None or (seen[2:] - seen[:2]).min() <= 3  # what was dropped is a sliver at most


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_whole_factors_are_exact(factor):
    """Half a pixel between boxes and pixels would show here."""
    sample = painted_like(1)
    result = warped(sample, scaled(factor, factor), (factor * HEIGHT, factor * WIDTH), 0.0)
    np.testing.assert_array_equal(result.boxes, factor * sample.boxes)
    assert_true(result, 0.0)


@settings(max_examples=60, deadline=None)
@given(painted(), st.integers(0, 2**32))
def test_turn_and_shear_of_what_stays_in_view(sample, seed):
    """The hull of a rectangle's corners is what a turned rectangle touches, as long as nothing is cut off."""
    small = resized(sample, (HEIGHT // 2, WIDTH // 2))
    matrix = random_affine(np.random.default_rng(seed), AffineRanges(0.1, 0.02, 180.0, 10.0), small.size)
    matrix = shifted(96, 96) @ matrix @ shifted(-WIDTH / 4, -HEIGHT / 4)
    result = warped(small, matrix, (192, 192), 0.0)
    assert len(result.boxes) == len(sample.boxes)
    assert_true(result, 1.6)


@settings(max_examples=60, deadline=None)
@given(painted(), st.integers(0, 2**32))
def test_turn_and_shear_of_what_is_cut_off(sample, seed):
    matrix = random_affine(np.random.default_rng(seed), AffineRanges(0.5, 0.3, 180.0, 20.0), sample.size)
    matrix = shifted(WIDTH / 2, HEIGHT / 2) @ matrix @ shifted(-WIDTH / 2, -HEIGHT / 2)
    result = warped(sample, matrix, sample.size, 0.5)
    for label, box in zip(result.labels, result.boxes, strict=True):
        seen = found_again(result.image, label)
        if seen is not None:  # a corner of the hull alone may be in view
            assert (seen[:2] >= box[:2] - 1.6).all()
            assert (seen[2:] <= box[2:] + 1.6).all()


@settings(max_examples=30, deadline=None)
@given(painted(), st.integers(8, 200), st.integers(8, 200))
def test_resizing(sample, height, width):
    result = resized(sample, (height, width))
    assert result.size == (height, width)
    ratio = np.array([width / WIDTH, height / HEIGHT] * 2)
    np.testing.assert_allclose(result.boxes, sample.boxes * ratio)
    if min(height, width) > 60:
        assert_true(result, 1.5)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*(painted(labels=[label]) for label in range(4))), st.floats(0.25, 0.75), st.floats(0.25, 0.75))
def test_mosaic_shows_all_four(samples, x, y):
    result = mosaic(samples, (x, y), 0.0)
    assert result.size == (2 * HEIGHT, 2 * WIDTH)
    assert_true(result, 0.0)
    left, top = round(x * 2 * WIDTH), round(y * 2 * HEIGHT)
    for label, box in zip(result.labels, result.boxes, strict=True):  # label i lies in quarter i
        assert box[0] >= left if label % 2 else box[2] <= left
        assert box[1] >= top if label // 2 else box[3] <= top


@settings(max_examples=20, deadline=None)
@given(painted(labels=[0]), painted(labels=[1]), st.floats(0.2, 0.8))
def test_mixup_keeps_the_objects_of_both(first, second, share):
    result = mixup(first, second, share)
    assert result.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(result.boxes, np.concatenate([first.boxes, second.boxes]))
    expected = share * first.image.astype(float) + (1 - share) * second.image
    np.testing.assert_allclose(result.image, expected, atol=0.51)


SOURCE = [painted_like(seed, [seed % 4]) for seed in range(12)]
EVERYTHING = AugmentConfig(
    **{"flip_x": 0.5, "flip_y": 0.5, "transpose": 0.5, "mosaic": 0.5, "scale": 0.4, "translate": 0.2, "rotate": 8.0},
    **{"shear": 3.0, "hue": 0.0, "saturation": 0.0, "value": 0.1, "min_visible": 0.3},
)


def test_all_together():
    """Each box is full of its colour up to its edges, and just outside of them the colour ends."""
    config = replace(EVERYTHING, rotate=0.0, shear=0.0)
    boxes = 0
    for seed in range(150):
        result = augmented(SOURCE, seed % 12, np.random.default_rng(seed), config)
        assert set(result.size) == {HEIGHT, WIDTH}
        for label, box in zip(result.labels, result.boxes, strict=True):
            distance = np.abs(result.image.astype(int) - COLOURS[label]).sum(2)
            is_colour = np.pad(distance < 200, 3)  # index 0 stands for pixel -3
            x1, y1, x2, y2 = np.rint(box).astype(int) + 3
            assert is_colour[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].all()
            middle_x, middle_y = (x1 + x2) // 2, (y1 + y2) // 2
            around = [(middle_y, x1 - 3), (middle_y, x2 + 2), (y1 - 3, middle_x), (y2 + 2, middle_x)]
            assert not any(is_colour[place] for place in around)
            boxes += 1
    assert boxes > 150


def test_a_box_of_which_too_little_remains_is_dropped():
    sample = LabelledImage(np.zeros((10, 10, 3), np.uint8), np.array([[-6.0, 0, 4, 10], [-9, 0, 1, 10]]), np.arange(2))
    assert cropped(sample, 0.3).labels.tolist() == [0]
    assert cropped(sample, 0.0).labels.tolist() == [0]  # one pixel is less than the smallest side
    assert cropped(sample, 0.3).boxes.tolist() == [[0, 0, 4, 10]]
    assert cropped(sample, 0.41).boxes.shape == (0, 4)


def test_no_boxes_stay_no_boxes():
    empty = LabelledImage(np.zeros((32, 32, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64))
    config = replace(EVERYTHING, mosaic=1.0, mixup=1.0)
    result = augmented([empty] * 3, 0, np.random.default_rng(0), config)
    assert result.boxes.shape == (0, 4)
    assert mapped_boxes(empty.boxes, np.eye(3)).shape == (0, 4)


def test_identity_changes_nothing_and_the_outside_is_grey():
    sample = painted_like(0)
    same = warped(sample, np.eye(3), sample.size, 0.5)
    np.testing.assert_array_equal(same.image, sample.image)
    np.testing.assert_array_equal(same.boxes, sample.boxes)
    moved = warped(sample, shifted(10, 0), sample.size, 0.0)
    assert (moved.image[:, :10] == LETTERBOX_FILL).all()
    np.testing.assert_array_equal(moved.image[:, 10:], sample.image[:, :-10])


def test_images_with_one_channel():
    grey = [LabelledImage(s.image[..., :1], s.boxes, s.labels) for s in SOURCE]
    config = replace(EVERYTHING, value=0.0, mosaic=1.0, mixup=1.0, transpose=0.0)
    assert augmented(grey, 0, np.random.default_rng(0), config).image.shape == (HEIGHT, WIDTH, 1)


def test_what_is_off_draws_nothing():
    """So that a run of an older set of options stays the same."""
    plain, other = AugmentConfig(), AugmentConfig(mixup_alpha=7.0, min_visible=0.9, multi_scale_every=3)
    results = [augmented(SOURCE, 3, np.random.default_rng(5), config) for config in (plain, other)]
    np.testing.assert_array_equal(results[0].image, results[1].image)
    rng = np.random.default_rng(5)
    augmented(SOURCE, 3, rng, NO_AUGMENTATION)
    expected = np.random.default_rng(5)
    expected.random(3), expected.uniform(-1, 1, 3), expected.uniform(-1, 1)
    assert rng.random() == expected.random()


def test_the_last_epochs_have_no_mixing():
    config = AugmentConfig(mosaic=1.0, mixup=1.0, scale=0.3)
    assert (without_mixing(config).mosaic, without_mixing(config).mixup, without_mixing(config).scale) == (0, 0, 0.3)


@pytest.mark.parametrize(
    ("factor", "stride", "size"), [(1.0, 32, (96, 128)), (0.5, 32, (64, 64)), (1.3, 32, (128, 160)), (0.01, 8, (8, 8))]
)
def test_sizes_are_multiples_of_the_stride(factor, stride, size):
    assert batch_size_px((HEIGHT, WIDTH), factor, stride) == size
    result = augmented(SOURCE, 0, np.random.default_rng(0), replace(NO_AUGMENTATION, multi_scale_stride=stride), factor)
    assert result.size == size


def test_images_of_different_size_cannot_be_mixed():
    other = LabelledImage(np.zeros((8, 8, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64))
    for config in (AugmentConfig(mosaic=1.0), AugmentConfig(mixup=1.0)):
        rng = np.random.default_rng(1)  # draws image 1
        with pytest.raises(DataError, match="all images must have one size"):
            augmented([SOURCE[0], other], 0, rng, config)


@pytest.mark.parametrize(
    "options", [{"mosaic": 1.1}, {"scale": 1.0}, {"rotate": -1}, {"multi_scale_every": 0}, {"close_mosaic": -1}]
)
def test_options_out_of_range(options):
    with pytest.raises(DataError, match=next(iter(options))):
        AugmentConfig(**options)

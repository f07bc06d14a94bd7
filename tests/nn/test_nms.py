# SPDX-License-Identifier: Apache-2.0
"""Non-maximum suppression against a naive quadratic reference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_hw.nn import Candidates, NmsConfig, non_maximum_suppression
from yolo_hw.nn.nms import centre_to_corners, pairwise_iou


def iou(a, b):
    """Overlap of two boxes (cx, cy, w, h)."""
    width = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    height = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    overlap = max(width, 0.0) * max(height, 0.0)
    union = a[2] * a[3] + b[2] * b[3] - overlap
    return overlap / union if union > 0 else 0.0


def naive(boxes, scores, config):
    """Return the kept (box index, class) pairs, best first; equal scores keep the order of box, then class."""
    if config.class_agnostic:
        pairs = [(i, int(np.argmax(row))) for i, row in enumerate(scores)]
    else:
        pairs = [(i, c) for i, row in enumerate(scores) for c in range(len(row))]
    pairs = [pair for pair in pairs if scores[pair] > config.confidence]
    pairs.sort(key=lambda pair: -scores[pair])
    kept = []
    for i, c in pairs[: config.max_candidates]:
        rivals = [j for j, d in kept if config.class_agnostic or c == d]
        if all(iou(boxes[i], boxes[j]) <= config.iou for j in rivals):
            kept.append((i, c))
    return kept[: config.max_detections]


def check(boxes, scores, config):
    """Compare a batch of images with the naive reference."""
    found = non_maximum_suppression(Candidates(torch.from_numpy(boxes), torch.from_numpy(scores)), config)
    assert len(found) == len(boxes)
    for image_boxes, image_scores, result in zip(boxes, scores, found, strict=True):
        kept = naive(image_boxes, image_scores, config)
        assert result.classes.tolist() == [c for _, c in kept]
        assert result.scores.tolist() == [image_scores[pair] for pair in kept]
        expected = np.array([image_boxes[i] for i, _ in kept]).reshape(-1, 4)
        corners = np.concatenate([expected[:, :2] - expected[:, 2:] / 2, expected[:, :2] + expected[:, 2:] / 2], 1)
        assert np.array_equal(result.boxes.numpy(), corners)


def random_batch(seed, images, count, classes, levels=None):
    """Boxes on a coarse grid, so that exact overlaps and (with `levels`) equal scores happen."""
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.integers(0, 9, (images, count, 2)) / 8, rng.integers(1, 5, (images, count, 2)) / 8], 2)
    scores = (
        rng.random((images, count, classes)) if levels is None else rng.integers(0, levels, (images, count, classes))
    )
    return boxes, scores / (1 if levels is None else levels)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("levels", [None, 4], ids=["distinct", "ties"])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.45, 0.99])
def test_random_batches(agnostic, levels, threshold):
    for seed in range(5):
        check(*random_batch(seed, 3, 40, 3, levels), NmsConfig(0.2, threshold, agnostic))


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(0, 12),
    st.integers(1, 4),
    st.builds(NmsConfig, st.just(0.3), st.just(0.45), st.booleans(), st.integers(1, 8), st.integers(1, 20)),
)
def test_any_configuration(seed, count, classes, config):
    check(*random_batch(seed, 2, count, classes, 5), config)


@pytest.mark.parametrize("agnostic", [False, True])
def test_more_boxes_than_one_block(agnostic):
    """The overlaps are computed in blocks of 1024 boxes: suppression must reach over the border."""
    check(*random_batch(0, 1, 1300, 1), NmsConfig(0.0, 0.3, agnostic, max_detections=1300))


def test_empty_input():
    for count in (0, 3):
        (result,) = non_maximum_suppression(Candidates(torch.zeros(1, count, 4), torch.zeros(1, count, 2)), NmsConfig())
        assert (result.boxes.shape, result.scores.shape, result.classes.shape) == ((0, 4), (0,), (0,))
    assert non_maximum_suppression(Candidates(torch.zeros(0, 3, 4), torch.zeros(0, 3, 2)), NmsConfig()) == []


def test_same_box_in_two_classes():
    boxes, scores = np.array([[[0.5, 0.5, 0.2, 0.2]] * 2]), np.array([[[0.9, 0.8], [0.7, 0.85]]])
    check(boxes, scores, NmsConfig())
    config = NmsConfig(class_agnostic=True)
    (result,) = non_maximum_suppression(Candidates(torch.from_numpy(boxes), torch.from_numpy(scores)), config)
    assert (result.scores.tolist(), result.classes.tolist()) == ([0.9], [0])


def test_threshold_is_exclusive_on_both_sides():
    """Overlap exactly at the threshold survives; a score exactly at the confidence does not."""
    boxes = torch.tensor([[[0.5, 0.5, 1.0, 1.0], [0.5, 0.25, 1.0, 0.5]]])
    found = non_maximum_suppression(Candidates(boxes, torch.tensor([[[0.9], [0.8]]])), NmsConfig(0.25, 0.5))
    assert len(found[0].scores) == 2
    found = non_maximum_suppression(Candidates(boxes, torch.tensor([[[0.9], [0.25]]])), NmsConfig(0.25, 0.5))
    assert len(found[0].scores) == 1


def test_nan_scores_and_flat_boxes_are_harmless():
    boxes = torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.1, 0.1]]])
    scores = torch.tensor([[[0.9], [0.8], [float("nan")]]])
    (result,) = non_maximum_suppression(Candidates(boxes, scores), NmsConfig())
    assert result.scores.tolist() == pytest.approx([0.9, 0.8])


def test_iou_by_hand():
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 4.0, 2.0]])
    expected = torch.tensor([[1, 1 / 7, 0], [1 / 7, 1, 1 / 7], [0, 1 / 7, 1]])
    torch.testing.assert_close(pairwise_iou(boxes, boxes), expected)
    assert centre_to_corners(torch.tensor([2.0, 3.0, 2.0, 4.0])).tolist() == [1, 1, 3, 5]

# SPDX-License-Identifier: Apache-2.0
"""Anchors: known clusters are found, refinement never makes them worse, a seed fixes the result."""

from __future__ import annotations

import numpy as np
import pytest

from yolo_hw.data import DetectionDataset, Item, Resize
from yolo_hw.data.anchors import box_sizes, find_anchors, measure_anchors, size_iou
from yolo_hw.errors import DataError

CENTRES = np.array([[10.0, 13.0], [40.0, 30.0], [60.0, 120.0], [200.0, 180.0]])


def clustered(count=400, spread=0.05, seed=0):
    rng = np.random.default_rng(seed)
    return CENTRES[rng.integers(len(CENTRES), size=count)] * np.exp(rng.normal(0, spread, (count, 2)))


def one_item(size, boxes, crowd):
    boxes = np.array(boxes, np.float64)
    return Item(None, size, boxes, np.zeros(len(boxes), np.int64), np.array(crowd), boxes[:, 0])


def test_iou_of_sizes():
    found = size_iou(np.array([[10.0, 10.0], [4.0, 5.0]]), np.array([[10.0, 5.0], [20.0, 20.0]]))
    np.testing.assert_allclose(found, [[0.5, 0.25], [20 / 50, 20 / 400]])


def test_known_clusters_are_found():
    before, after = find_anchors(clustered(), 4, seed=3)
    for fit in (before, after):
        np.testing.assert_allclose(fit.anchors, CENTRES, rtol=0.1)
        assert fit.recall == 1
    assert after.mean_iou > 0.9


@pytest.mark.parametrize("count", [1, 6, 9])
def test_refinement_never_makes_anchors_worse_and_often_better(count):
    rng = np.random.default_rng(count)
    results = [find_anchors(np.exp(rng.normal(3.5, 0.8, (300, 2))), count, seed=seed) for seed in range(4)]
    for before, after in results:
        assert after.mean_iou >= before.mean_iou
        assert after.recall >= before.recall
        assert len(after.anchors) == count
    assert any(after.mean_iou > before.mean_iou for before, after in results)


def test_a_seed_fixes_the_result():
    first, again, other = (find_anchors(clustered(spread=0.5), 5, seed=seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.anchors, again.anchors)
    assert not np.array_equal(first.anchors, other.anchors)


def test_anchors_are_whole_pixels_from_small_to_large():
    fit = measure_anchors(clustered(), np.array([[200.2, 180.4], [0.1, 0.2], [40.6, 30]]), 0.5)
    assert fit.cfg_line == "anchors = 1,1,  41,30,  200,180"


def test_recall_counts_boxes_above_the_threshold():
    sizes, anchor = np.array([[10.0, 10.0], [10.0, 5.0], [10.0, 4.9]]), np.array([[10.0, 10.0]])
    assert measure_anchors(sizes, anchor, 0.5).recall == pytest.approx(2 / 3)
    assert measure_anchors(sizes, anchor, 0.5).mean_iou == pytest.approx((1 + 0.5 + 0.49) / 3)


def test_sizes_are_those_in_the_network(tmp_path):
    item = one_item((50, 100), [[0, 0, 20, 10], [5, 5, 9, 9]], [False, True])
    empty = one_item((0, 0), np.zeros((0, 4)), np.zeros(0, bool))
    dataset = DetectionDataset(("x",), (item, empty))
    assert box_sizes(dataset, (200, 200), Resize.STRETCH).tolist() == [[40, 40]]
    assert box_sizes(dataset, (200, 200), Resize.LETTERBOX).tolist() == [[40, 20]]


def test_more_anchors_than_sizes_are_refused():
    with pytest.raises(DataError, match="3 anchors need as many boxes of different size, there are 2"):
        find_anchors(np.array([[1.0, 2.0], [3.0, 4.0], [3.0, 4.0]]), 3)

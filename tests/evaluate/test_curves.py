# SPDX-License-Identifier: Apache-2.0
"""The sampled curves against counting at every threshold."""

import math

import numpy as np
import pytest
from support.detections import random_case

from yolo_hw.evaluate import ClassMatches, make_curves, match_detections


@pytest.mark.parametrize("seed", range(5))
def test_curves_equal_counting_at_every_threshold(seed):
    truth, detections = random_case(seed)
    matches = match_detections(truth, detections, range(3))
    curves = make_curves(matches)
    assert curves.labels == tuple(label for label in range(3) if matches[label].objects)
    for row, label in enumerate(curves.labels):
        of_class = matches[label]
        for i in range(0, 1001, 25):
            shown = of_class.scores >= i / 1000
            hits = int(of_class.right[shown].sum())
            assert curves.recall[row, i] == hits / of_class.objects
            assert curves.precision[row, i] == (hits / shown.sum() if shown.any() else 1)
    np.testing.assert_allclose(curves.f1.max(1) <= 1, True)


def test_envelope_is_the_best_precision_at_this_recall_or_more():
    matches = ClassMatches(4, np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), np.array([1.0, 0.0, 1.0]))
    curves = make_curves({0: matches})
    envelope = curves.envelope[0]
    assert envelope[:251].tolist() == [1] * 251  # recall up to 1/4
    assert envelope[251:501] == pytest.approx(np.full(250, 2 / 3))
    assert not envelope[501:].any()
    assert curves.areas[0] == pytest.approx(1 / 4 + 1 / 4 * 2 / 3)


def test_best_threshold_has_the_highest_mean_f1():
    right = ClassMatches(2, np.array([0.9, 0.6]), np.array([True, True]), np.ones(2))
    wrong = ClassMatches(1, np.array([0.8, 0.4]), np.array([True, False]), np.ones(2))
    curves = make_curves({0: right, 3: wrong})
    assert curves.best_confidence == pytest.approx(0.401)  # above the wrong one at 0.4, the lowest of equal thresholds
    assert curves.at_best(0) == (1, 1, 1)
    assert curves.at_best(3) == (1, 1, 1)
    assert all(math.isnan(value) for value in curves.at_best(1))


def test_no_detection_and_no_object():
    none = ClassMatches(2, np.zeros(0), np.zeros(0, np.bool_), np.zeros(0))
    curves = make_curves({0: none})
    assert curves.precision.min() == 1
    assert curves.recall.max() == curves.f1.max() == curves.envelope.max() == curves.areas[0] == 0
    empty = make_curves({0: ClassMatches(0, none.scores, none.right, none.overlaps)})
    assert empty.labels == ()
    assert math.isnan(empty.best_confidence)

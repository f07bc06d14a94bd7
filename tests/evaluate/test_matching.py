# SPDX-License-Identifier: Apache-2.0
"""Which detections are right: the cases in which the rules differ, and those in which they do not."""

import numpy as np
import pytest
from support.detections import NOWHERE, A, B, dataset, found, item

from yolo_hw.evaluate import MatchRule, match_detections
from yolo_hw.evaluate.matching import pairwise_overlap

BOTH = pytest.mark.parametrize("rule", MatchRule)
SQUARE = [0, 0, 100, 100]


def match(truth, *detections, rule=MatchRule.VOC):
    return match_detections(truth, detections, range(len(truth.names)), rule)[0]


def test_overlap():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 5, 10], [20, 20, 30, 30], [3, 3, 3, 3]], np.float64)
    assert pairwise_overlap(boxes[:2], boxes).tolist() == [[1, 0.5, 0, 0], [0.5, 1, 0, 0]]
    assert pairwise_overlap(boxes[1:2], boxes[:1], crowd=True).tolist() == [[1]]


@BOTH
def test_the_best_detection_of_an_object_is_right_and_further_ones_are_wrong(rule):
    matches = match(dataset(item([A, B])), found((A, 0.6), (A, 0.9), (NOWHERE, 0.7)), rule=rule)
    assert matches.scores.tolist() == [0.9, 0.7, 0.6]
    assert matches.right.tolist() == [True, False, False]
    assert matches.overlaps.tolist() == [1, 0, 1]
    assert matches.objects == 2


@BOTH
def test_a_detection_belongs_to_the_object_it_overlaps_most_even_if_that_one_is_taken(rule):
    near = [0, 0, 100, 90]
    matches = match(dataset(item([SQUARE, near])), found((SQUARE, 0.9), ([0, 0, 100, 98], 0.8)), rule=rule)
    assert matches.right.tolist() == [True, False]


@pytest.mark.parametrize(("rule", "right"), [(MatchRule.VOC, True), (MatchRule.DARKNET, False)])
def test_an_overlap_of_exactly_one_half_is_enough_for_voc_only(rule, right):
    assert match(dataset(item([SQUARE])), found(([0, 0, 50, 100], 0.9)), rule=rule).right.tolist() == [right]


@BOTH
def test_difficult_objects_are_no_objects_and_their_detections_are_left_out(rule):
    truth = dataset(item([A, B], difficult=[True, False]))
    matches = match(truth, found((A, 0.9), (A, 0.8), (B, 0.7)), rule=rule)
    assert (matches.objects, matches.scores.tolist(), matches.right.tolist()) == (1, [0.7], [True])


@pytest.mark.parametrize(("rule", "count"), [(MatchRule.VOC, 0), (MatchRule.DARKNET, 1)])
def test_a_difficult_object_that_overlaps_more_takes_the_detection_for_voc_only(rule, count):
    truth = dataset(item([SQUARE, [0, 0, 100, 80]], difficult=[True, False]))
    assert len(match(truth, found((SQUARE, 0.9)), rule=rule).right) == count


@BOTH
def test_detections_inside_a_crowd_are_left_out_unless_they_find_an_object(rule):
    truth = dataset(item([[0, 0, 200, 200], A], crowd=[True, False]))
    matches = match(truth, found((A, 0.9), (B, 0.8), ([190, 0, 250, 60], 0.7)), rule=rule)
    assert (matches.objects, matches.scores.tolist(), matches.right.tolist()) == (1, [0.9, 0.7], [True, False])


def test_classes_and_images_do_not_mix():
    truth = dataset(item([A], [0]), item([A], [1]), names=("cat", "dog"))
    matches = match_detections(truth, [found((A, 0.9, 1)), found((A, 0.8, 1), (A, 0.7, 0))], [0, 1])
    assert {label: m.right.tolist() for label, m in matches.items()} == {0: [False], 1: [False, True]}


def test_model_classes_are_mapped_and_unmapped_ones_left_out():
    truth = dataset(item([A], [1]), names=("cat", "dog"))
    matches = match_detections(truth, [found((A, 0.9, 0), (A, 0.8, 1))], [1, -1])
    assert list(matches) == [1]
    assert matches[1].right.tolist() == [True]


def test_an_unread_image_counts_its_objects():
    matches = match(dataset(item([A]), item([A])), found((A, 0.9)), None)
    assert (matches.objects, matches.right.tolist()) == (2, [True])

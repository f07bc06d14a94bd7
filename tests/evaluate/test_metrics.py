# SPDX-License-Identifier: Apache-2.0
"""Average precision on cases small enough to compute by hand."""

import math

import pytest
from support.detections import NOWHERE, A, B, C, dataset, found, item

from yolo_hw.errors import DataError
from yolo_hw.evaluate import evaluate_detections, match_classes


def test_hand_computed_case():
    """Hit, miss, hit, double detection; one of three objects is never found.

    Precision is 1 up to recall 1/3, then 2/3 up to recall 2/3, then 0.
    """
    truth = dataset(item([A, B]), item([C]))
    metrics = evaluate_detections(truth, [found((A, 0.9), (NOWHERE, 0.8), (A, 0.6)), found((C, 0.7))], [0])
    assert metrics.ap50 == pytest.approx((34 * 1 + 33 * 2 / 3) / 101)  # recall 0.00..0.33, 0.34..0.66
    assert metrics.ap == pytest.approx(metrics.ap50)  # all overlaps are exact
    assert metrics.ap75 == pytest.approx(metrics.ap50)
    assert metrics.voc07 == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)  # recall 0.0..0.3, 0.4..0.6
    assert metrics.voc12 == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    assert metrics.darknet.map50 == pytest.approx(5 / 9)
    assert metrics.fitness == pytest.approx(metrics.ap50)
    assert metrics.images == 2
    (thing,) = metrics.classes
    assert (thing.name, thing.objects, thing.ap50, thing.voc07) == ("thing", 3, metrics.ap50, metrics.voc07)


def test_perfect_and_empty_results():
    truth = dataset(item([A, B]), item([C]))
    perfect = evaluate_detections(truth, [found((A, 0.9), (B, 0.3)), found((C, 0.2))], [0])
    assert (perfect.ap, perfect.ap50, perfect.voc07, perfect.voc12) == pytest.approx((1, 1, 1, 1))
    for nothing in ([None, None], [found(), found()]):
        empty = evaluate_detections(truth, nothing, [0])
        assert (empty.ap, empty.ap50, empty.voc07, empty.voc12) == (0, 0, 0, 0)


def test_overlap_thresholds():
    """An overlap of 0.62 counts at 0.50, 0.55 and 0.60 of the ten thresholds."""
    truth = dataset(item([[0, 0, 100, 100]]))
    metrics = evaluate_detections(truth, [found(([0, 0, 62, 100], 0.9))], [0])
    assert metrics.ap == pytest.approx(0.3)
    assert (metrics.ap50, metrics.ap75, metrics.voc07) == pytest.approx((1, 0, 1))


def test_an_unread_image_counts_as_one_without_detections():
    truth = dataset(item([A]), item([A]))
    metrics = evaluate_detections(truth, [found((A, 0.9)), None], [0])
    assert metrics.voc07 == pytest.approx(6 / 11)  # precision 1 at recall 0.0..0.5


def test_detections_in_crowds_are_neither_right_nor_wrong():
    truth = dataset(item([A, [200, 200, 300, 300]], crowd=[False, True]))
    metrics = evaluate_detections(truth, [found((NOWHERE, 0.99), (A, 0.9))], [0])
    assert metrics.ap50 == pytest.approx(1)
    assert metrics.classes[0].objects == 1


def test_sizes():
    """Areas 20**2, 60**2 and 100**2: only the middle one is found."""
    boxes = [[0, 0, 20, 20], [100, 100, 160, 160], [180, 180, 280, 280]]
    metrics = evaluate_detections(dataset(item(boxes)), [found((boxes[1], 0.9))], [0])
    assert (metrics.ap_small, metrics.ap_medium, metrics.ap_large) == pytest.approx((0, 1, 0))
    assert math.isnan(evaluate_detections(dataset(item(boxes[:1])), [None], [0]).ap_large)


def test_classes_are_mapped_and_unmatched_ones_left_out():
    """The model's classes 0, 1, 2 are the data set's 1, none, 0; class 2 of the data set is not evaluated."""
    truth = dataset(item([A, B, C], [0, 1, 2]), names=("cat", "dog", "cow"))
    metrics = evaluate_detections(truth, [found((A, 0.9, 2), (B, 0.8, 2), (C, 0.7, 1))], [1, -1, 0])
    assert [(c.name, c.objects) for c in metrics.classes] == [("cat", 1), ("dog", 1)]
    assert [c.ap50 for c in metrics.classes] == pytest.approx([1, 0])
    assert metrics.ap50 == pytest.approx(0.5)


def test_classes_without_objects_have_no_ap():
    truth = dataset(item([A], [0]), names=("cat", "dog"))
    metrics = evaluate_detections(truth, [found((A, 0.9, 0), (B, 0.8, 1))], [0, 1])
    assert metrics.classes[0].ap50 == pytest.approx(1)
    assert math.isnan(metrics.classes[1].ap50)
    assert metrics.ap50 == pytest.approx(1)  # the mean leaves it out


def test_coco_counts_100_detections_per_image_and_voc_all():
    truth = dataset(item([A]))
    rows = [(NOWHERE, 0.9 - 0.001 * i) for i in range(100)]
    metrics = evaluate_detections(truth, [found(*rows, (A, 0.1))], [0])
    assert metrics.ap50 == 0
    assert metrics.voc07 == pytest.approx(1 / 101)


def test_class_names_are_matched_with_vocs_synonyms():
    assert match_classes(["Sofa", "tvmonitor", "x", "person "], ["person", "tv", "couch"]) == [2, 1, -1, 0]
    with pytest.raises(DataError, match="no class name of the model"):
        match_classes(["x"], ["y"])


def test_fitness_weighs_ap50_and_ap():
    truth = dataset(item([[0, 0, 100, 100]]))
    metrics = evaluate_detections(truth, [found(([0, 0, 62, 100], 0.9))], [0])
    assert metrics.fitness == pytest.approx(0.1 * 1 + 0.9 * 0.3)


def test_precision_recall_and_f1_are_those_of_the_best_threshold():
    """Above 0.7 two of two detections are right and find two of three objects: F1 0.8; below, it is 2/3 at most."""
    truth = dataset(item([A, B]), item([C]))
    metrics = evaluate_detections(truth, [found((A, 0.9), (B, 0.8), (NOWHERE, 0.4), (NOWHERE, 0.3)), found()], [0])
    assert 0.4 < metrics.confidence <= 0.8
    assert (metrics.precision, metrics.recall, metrics.f1) == pytest.approx((1, 2 / 3, 0.8))
    (thing,) = metrics.classes
    assert (thing.precision, thing.recall, thing.f1) == pytest.approx((1, 2 / 3, 0.8))


def test_nothing_to_find():
    metrics = evaluate_detections(dataset(item([])), [found((A, 0.9))], [0])
    undefined = (metrics.ap, metrics.voc07, metrics.voc12, metrics.confidence, metrics.f1, metrics.fitness)
    assert all(math.isnan(value) for value in undefined)
    assert metrics.darknet.map50 == 0

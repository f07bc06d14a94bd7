# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix on scenes small enough to count by hand."""

from support.detections import NOWHERE, A, B, C, dataset, found, item

from yolo_hw.evaluate import confusion_matrix

NAMES = ("cat", "dog")
CAT, DOG, BACKGROUND = 0, 1, 2


def matrix(truth, *detections, class_map=(0, 1)):
    return confusion_matrix(truth, detections, class_map).tolist()


def test_hits_confusions_misses_and_inventions():
    truth = dataset(item([A, B], [CAT, DOG]), item([C], [CAT]), names=NAMES)
    first = found((A, 0.9, CAT), (B, 0.8, CAT), (NOWHERE, 0.7, DOG))
    # rows: predicted, columns: true
    assert matrix(truth, first, None) == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_the_nearest_pair_goes_first_and_every_object_is_found_once():
    truth = dataset(item([A], [CAT]), names=NAMES)
    near = [A[0], A[1], A[2], A[3] - 4]
    assert matrix(truth, found((near, 0.9, CAT), (A, 0.5, DOG))) == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_low_scores_and_unmapped_classes_do_not_count():
    truth = dataset(item([A], [CAT]), names=NAMES)
    assert matrix(truth, found((A, 0.24, CAT))) == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert matrix(truth, found((A, 0.25, CAT))) == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert matrix(truth, found((A, 0.9, 1)), class_map=(0, -1)) == [[0, 0], [1, 0]]


def test_objects_of_unknown_classes_are_left_out():
    truth = dataset(item([A, B], [CAT, DOG]), names=NAMES)
    assert matrix(truth, found((B, 0.9, 0)), class_map=(1,)) == [[1, 0], [0, 0]]


def test_crowds_and_difficult_objects_count_neither_way():
    crowd = [0, 0, 200, 200]
    truth = dataset(item([crowd, A], [CAT, DOG], [True, False], difficult=[False, True]), names=NAMES)
    assert matrix(truth, found((A, 0.9, CAT), ([20, 100, 60, 150], 0.8, DOG))) == [[0, 0, 0]] * 3
    assert matrix(truth, None) == [[0, 0, 0]] * 3

# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix of a detector: what objects are taken for, missed, and seen in the background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from yolo_hw.data.dataset import DetectionDataset, Item
from yolo_hw.evaluate.matching import (
    IOU,
    Floats,
    detections_by_class,
    difficult_of,
    evaluated_classes,
    inside_crowds,
    pairwise_overlap,
)
from yolo_hw.nn.nms import Detections

CONFIDENCE = 0.25
"""Smallest score that counts."""

Counts = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int64]


def confusion_matrix(
    dataset: DetectionDataset,
    detections: Sequence[Detections | None],
    class_map: Sequence[int],
    confidence: float = CONFIDENCE,
) -> Counts:
    """Count pairs of predicted and true class.

    In every image pairs of a detection and an object, whatever their classes, are taken by falling IoU from 0.5 on,
    each detection and each object once. Left over objects are missed, left over detections seen in the background.
    Crowds and difficult objects count neither way, nor do detections paired with or inside them. Objects of classes
    that the model does not know are left out, as from average precision.

    Args:
        dataset: Ground truth.
        detections: One entry per item, boxes in image pixels; None counts as no detection.
        class_map: Model class -> data set class or -1; detections of class -1 are left out.
        confidence: Detections with a smaller score are left out.

    Returns:
        [C + 1, C + 1] counts, predicted class by true class, for the C classes of `evaluated_classes`; the last row and
        column are the background.
    """
    known = evaluated_classes(class_map)
    place = np.full(len(dataset.names), -1, np.int64)
    place[list(known)] = np.arange(len(known))
    matrix = np.zeros((len(known) + 1, len(known) + 1), np.int64)
    for item, found in zip(dataset.items, detections, strict=True):
        boxes, labels = _chosen(found, class_map, confidence)
        _count(matrix, item, boxes, place[labels], place[item.labels])
    return matrix


def _chosen(found: Detections | None, class_map: Sequence[int], confidence: float) -> tuple[Floats, Labels]:
    boxes, labels = [np.zeros((0, 4))], [np.zeros(0, np.int64)]
    for label, of_class, scores in detections_by_class(found, class_map):
        boxes.append(of_class[scores >= confidence])
        labels.append(np.full(len(boxes[-1]), label, np.int64))
    return np.concatenate(boxes), np.concatenate(labels)


def _pair(overlap: Floats) -> dict[int, int]:
    """Return detection -> object, by falling overlap."""
    rows, columns = np.nonzero(overlap >= IOU)
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for k in np.argsort(-overlap[rows, columns], kind="stable"):
        row, column = int(rows[k]), int(columns[k])
        if row not in pairs and column not in taken:
            pairs[row] = column
            taken.add(column)
    return pairs


def _count(matrix: Counts, item: Item, boxes: Floats, predicted: Labels, true: Labels) -> None:
    """Count one image; `predicted` and `true` are rows and columns of the matrix, -1 for unknown classes."""
    background = len(matrix) - 1
    objects = (true >= 0) & ~item.crowd
    truth, difficult = true[objects], difficult_of(item)[objects]
    pairs = _pair(pairwise_overlap(boxes, item.boxes[objects]))
    in_crowd = inside_crowds(boxes, item.boxes[item.crowd])
    for i, row in enumerate(predicted):
        if i not in pairs:
            matrix[row, background] += not in_crowd[i]
        elif not difficult[pairs[i]]:
            matrix[row, truth[pairs[i]]] += 1
    for k in set(range(len(truth))) - set(pairs.values()):
        if not difficult[k]:
            matrix[background, truth[k]] += 1

# SPDX-License-Identifier: Apache-2.0
"""Which detections are right at one overlap threshold, by the rules of Pascal VOC and of darknet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from yolo_hw.data.dataset import DetectionDataset, Item
from yolo_hw.nn.nms import Detections

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

IOU = 0.5
"""Least overlap of a right detection under both rules."""


class MatchRule(str, Enum):
    """Which object a detection stands for; a second detection of an object is wrong under both rules."""

    VOC = "voc"
    """The object of its class it overlaps most, if by at least 0.5; if that one is difficult, the detection is left
    out (Everingham et al., "The Pascal VOC Challenge", IJCV 2010, section 4.2; the devkit's ``VOCevaldet.m``)."""
    DARKNET = "darknet"
    """The same by more than 0.5 and among the ordinary objects; the detection is left out if there is none, but a
    difficult one (``validate_detector_map`` of AlexeyAB/darknet, ``src/detector.c``)."""


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class in all images, best first.

    Attributes:
        objects: Number of objects that count, neither crowd nor difficult.
        scores: [D], those left out not included.
        right: [D], whether the detection is the first of its object.
        overlaps: [D] IoU with the object, 0 where there is none.
    """

    objects: int
    scores: Floats
    right: Flags
    overlaps: Floats


def match_detections(
    dataset: DetectionDataset,
    detections: Sequence[Detections | None],
    class_map: Sequence[int],
    rule: MatchRule = MatchRule.VOC,
) -> dict[int, ClassMatches]:
    """Match all detections of a data set.

    Detections take their objects in the order of their scores, equal scores in the order of images. A detection in a
    crowd region, whose share of the detection's area is more than the threshold, is left out as COCO does.

    Args:
        dataset: Ground truth.
        detections: One entry per item, boxes in image pixels; None counts as no detection.
        class_map: Model class -> data set class or -1.
        rule: See `MatchRule`.

    Returns:
        Data set class -> its matches, for every class that `class_map` names.
    """
    found: dict[int, list[tuple[Floats, Flags, Floats]]] = {label: [] for label in evaluated_classes(class_map)}
    objects = dict.fromkeys(found, 0)
    for item, of_image in zip(dataset.items, detections, strict=True):
        for label, boxes, scores in detections_by_class(of_image, class_map):
            found[label].append(_match_image(item, label, boxes, scores, rule))
        plain = ~(item.crowd | difficult_of(item))
        for label in found:
            objects[label] += int((plain & (item.labels == label)).sum())
    return {label: _join(objects[label], parts) for label, parts in found.items()}


def evaluated_classes(class_map: Sequence[int]) -> tuple[int, ...]:
    """Return the data set's classes that the model knows, ascending."""
    return tuple(sorted({label for label in class_map if label >= 0}))


def difficult_of(item: Item) -> Flags:
    """Return the flags of an item, all false where the source has none."""
    return item.difficult if len(item.difficult) else np.zeros(len(item.labels), np.bool_)


def detections_by_class(found: Detections | None, class_map: Sequence[int]) -> Iterator[tuple[int, Floats, Floats]]:
    """Yield (data set class, boxes [D, 4], scores [D]) of one image, best first; unmapped classes are left out."""
    if found is None or len(found.scores) == 0:
        return
    boxes, scores = found.boxes.double().numpy(), found.scores.double().numpy()
    labels = np.asarray(class_map, np.int64)[found.classes.numpy()]
    for label in np.unique(labels[labels >= 0]):
        chosen = np.flatnonzero(labels == label)
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
        yield int(label), boxes[chosen], scores[chosen]


def pairwise_overlap(a: Floats, b: Floats, crowd: bool = False) -> Floats:
    """Return the IoU [A, B] of boxes [A, 4] and [B, 4]; for crowds B the share of A's area instead."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = (high - low).clip(0).prod(2)
    area_a = (a[:, 2:] - a[:, :2]).clip(0).prod(1)[:, None]
    area_b = (b[:, 2:] - b[:, :2]).clip(0).prod(1)[None]
    whole = np.broadcast_to(area_a, common.shape) if crowd else area_a + area_b - common
    return np.asarray(common / np.maximum(whole, np.finfo(np.float64).tiny), np.float64)


def inside_crowds(boxes: Floats, crowds: Floats) -> Flags:
    """Return for every box [A, 4] whether at least half of its area lies in one of the crowd regions [B, 4]."""
    if not len(crowds):
        return np.zeros(len(boxes), np.bool_)
    return np.asarray((pairwise_overlap(boxes, crowds, crowd=True) >= IOU).any(1), np.bool_)


def _match_image(
    item: Item, label: int, boxes: Floats, scores: Floats, rule: MatchRule
) -> tuple[Floats, Flags, Floats]:
    """Return scores, right, overlaps of one class in one image; equal scores keep their order."""
    of_class = item.labels == label
    if not of_class.any():  # the common case, all wrong
        return scores, np.zeros(len(scores), np.bool_), np.zeros(len(scores), np.float64)
    truth = item.boxes[of_class & ~item.crowd]
    difficult = difficult_of(item)[of_class & ~item.crowd]
    overlap = pairwise_overlap(boxes, truth)
    in_crowd = inside_crowds(boxes, item.boxes[of_class & item.crowd])
    taken = np.zeros(len(truth), np.bool_)
    kept, right, overlaps = [], [], []
    for i, row in enumerate(overlap):
        best, ignored = _choose(row, difficult, rule)
        if ignored or (best < 0 and in_crowd[i]):
            continue
        kept.append(i)
        right.append(best >= 0 and not taken[best])
        overlaps.append(row[best] if best >= 0 else 0.0)
        if best >= 0:
            taken[best] = True
    return scores[kept], np.array(right, np.bool_), np.array(overlaps, np.float64)


def _choose(row: Floats, difficult: Flags, rule: MatchRule) -> tuple[int, bool]:
    """Return the object (-1 for none) of a detection with overlaps `row`, and whether the detection is left out."""
    enough = row >= IOU if rule is MatchRule.VOC else row > IOU
    if not enough.any():
        return -1, False
    if rule is MatchRule.VOC:
        best = int(row.argmax())
        return best, bool(difficult[best])
    if not (enough & ~difficult).any():
        return -1, True
    return int(np.where(enough & ~difficult, row, -1.0).argmax()), False


def _join(objects: int, parts: list[tuple[Floats, Flags, Floats]]) -> ClassMatches:
    if not parts:
        none = np.zeros(0, np.float64)
        return ClassMatches(objects, none, np.zeros(0, np.bool_), none)
    scores, right, overlaps = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(-scores, kind="stable")
    return ClassMatches(objects, scores[order], right[order], overlaps[order])

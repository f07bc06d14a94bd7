# SPDX-License-Identifier: Apache-2.0
"""Average precision from matches: the 11 points of VOC 2007, the area of VOC 2010-2012 and of darknet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from yolo_hw.evaluate.matching import ClassMatches, Floats

DARKNET_CONFIDENCE = 0.25
"""``-thresh`` of ``darknet detector map``, at which it counts precision, recall and the mean overlap."""


def precision_recall(matches: ClassMatches) -> tuple[Floats, Floats]:
    """Return precision and recall after every detection, [D] each; the class has objects."""
    hits = np.cumsum(matches.right, dtype=np.float64)
    return hits / np.arange(1, len(hits) + 1), hits / matches.objects


def envelope(precision: Floats) -> Floats:
    """Return the highest precision at this or any higher recall."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def eleven_points(matches: ClassMatches) -> float:
    """Mean of the highest precision at recall 0, 0.1, ..., 1 or more, 0 where no recall is that high.

    Everingham et al., "The Pascal VOC Challenge", IJCV 2010, section 4.2, eqs. (1) and (2).

    Returns:
        The AP in [0, 1], NaN for a class without objects.
    """
    if not matches.objects:
        return float("nan")
    precision, recall = precision_recall(matches)
    # r >= k / 10 in integers: hits * 10 >= k * objects
    hits = np.rint(recall * matches.objects)
    reached = [precision[hits * 10 >= k * matches.objects] for k in range(11)]
    return float(np.mean([values.max(initial=0.0) for values in reached]))


def area_under_envelope(matches: ClassMatches) -> float:
    """Area under the envelope over recall: ``sum over i of (r_i - r_{i-1}) max_{j >= i} p_j``, ``r_0 = 0``.

    VOC 2010-2012: Everingham et al., "The Pascal VOC Challenge: A Retrospective", IJCV 2015, section 3.2; the devkit's
    ``VOCap.m``.

    Returns:
        The AP in [0, 1], NaN for a class without objects.
    """
    if not matches.objects:
        return float("nan")
    precision, recall = precision_recall(matches)
    return float((np.diff(recall, prepend=0.0) * envelope(precision)).sum())


@dataclass(frozen=True)
class DarknetMetrics:
    """What ``darknet detector map`` prints, in [0, 1].

    Attributes:
        map50: Mean AP over all classes; one without objects counts as 0, as in darknet.
        precision: Of the detections above 0.25, all classes together.
        recall: Of the objects, likewise.
        f1: Their harmonic mean.
        mean_iou: Sum of the overlaps of right detections above 0.25 by the number of detections above 0.25.
    """

    map50: float
    precision: float
    recall: float
    f1: float
    mean_iou: float


def darknet_metrics(matches: Mapping[int, ClassMatches]) -> DarknetMetrics:
    """Compute darknet's own figures.

    The AP is `area_under_envelope` of darknet's matches (``validate_detector_map`` with ``-points 0``, AlexeyAB/darknet
    ``src/detector.c``). Releases that sum from the second detection of the whole set on lose the area of the first one,
    which is counted here.

    Args:
        matches: Class -> matches by `MatchRule.DARKNET`.

    Returns:
        The figures.
    """
    areas = [area_under_envelope(m) if m.objects else 0.0 for m in matches.values()]
    shown = {label: m.scores > DARKNET_CONFIDENCE for label, m in matches.items()}
    objects = sum(m.objects for m in matches.values())
    found = sum(int(shown[label].sum()) for label in matches)
    right = sum(int((m.right & shown[label]).sum()) for label, m in matches.items())
    overlap = sum(float(m.overlaps[m.right & shown[label]].sum()) for label, m in matches.items())
    precision, recall = right / max(found, 1), right / max(objects, 1)
    return DarknetMetrics(
        map50=float(np.mean(areas)) if areas else float("nan"),
        precision=precision,
        recall=recall,
        f1=harmonic_mean(precision, recall),
        mean_iou=overlap / max(found, 1),
    )


def harmonic_mean(precision: float, recall: float) -> float:
    """F1: ``2 p r / (p + r)``, 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

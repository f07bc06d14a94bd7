# SPDX-License-Identifier: Apache-2.0
"""Precision, recall and F1 over the confidence threshold, precision over recall, and the best threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from yolo_hw.evaluate.average_precision import area_under_envelope, envelope, precision_recall
from yolo_hw.evaluate.matching import ClassMatches, Floats

POINTS = 1001
"""Samples of every axis: 0, 0.001, ..., 1."""


@dataclass(frozen=True)
class Curves:
    """Curves of the classes that have objects, at IoU 0.5 by the rule of VOC.

    Attributes:
        labels: Data set class of every row, K of them.
        axis: [1001] confidence or recall, 0 to 1.
        precision: [K, 1001] share of right ones among the detections with a score of at least the confidence; 1 where
            there is none.
        recall: [K, 1001] share of the objects that these detections find.
        f1: [K, 1001] harmonic mean of both.
        envelope: [K, 1001] highest precision at this or a higher recall.
        areas: [K] area under the exact envelope.
    """

    labels: tuple[int, ...]
    axis: Floats
    precision: Floats
    recall: Floats
    f1: Floats
    envelope: Floats
    areas: Floats

    @property
    def best(self) -> int:
        """The sample of the highest mean F1; the lowest confidence of several."""
        return int(self.f1.mean(0).argmax()) if self.labels else 0

    @property
    def best_confidence(self) -> float:
        """The confidence of the highest mean F1."""
        return float(self.axis[self.best]) if self.labels else float("nan")

    def at_best(self, label: int) -> tuple[float, float, float]:
        """Return precision, recall and F1 of a class at `best_confidence`; NaN for a class without objects."""
        if label not in self.labels:
            return (float("nan"),) * 3
        row = self.labels.index(label)
        return (
            float(self.precision[row, self.best]),
            float(self.recall[row, self.best]),
            float(self.f1[row, self.best]),
        )


def make_curves(matches: Mapping[int, ClassMatches]) -> Curves:
    """Sample the curves of all classes that have objects."""
    axis = np.arange(POINTS) / (POINTS - 1)
    labels = tuple(label for label, m in matches.items() if m.objects)
    rows = [_sample(matches[label], axis) for label in labels]
    precision, recall, over_recall = (
        np.array([row[i] for row in rows], np.float64).reshape(-1, POINTS) for i in range(3)
    )
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    areas = np.array([area_under_envelope(matches[label]) for label in labels], np.float64)
    return Curves(labels, axis, precision, recall, f1, over_recall, areas)


def _sample(matches: ClassMatches, axis: Floats) -> tuple[Floats, Floats, Floats]:
    """Return precision and recall over confidence and the envelope over recall."""
    precision, recall = precision_recall(matches)
    count = np.searchsorted(-matches.scores, -axis, side="right")  # detections with score >= axis
    over_confidence = np.concatenate([[1.0], precision])[count], np.concatenate([[0.0], recall])[count]
    first = np.searchsorted(recall, axis - 1e-12)  # the first detection that reaches the recall
    return *over_confidence, np.concatenate([envelope(precision), [0.0]])[first]

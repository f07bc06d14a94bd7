# SPDX-License-Identifier: Apache-2.0
"""All figures of a detector on a data set: COCO, Pascal VOC and darknet AP, precision, recall, F1, fitness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yolo_hw.data.dataset import DetectionDataset
from yolo_hw.errors import DataError
from yolo_hw.evaluate.average_precision import (
    DarknetMetrics,
    area_under_envelope,
    darknet_metrics,
    eleven_points,
)
from yolo_hw.evaluate.coco import coco_precision
from yolo_hw.evaluate.curves import make_curves
from yolo_hw.evaluate.matching import MatchRule, match_detections
from yolo_hw.nn.nms import Detections

VOC_SYNONYMS = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""Pascal VOC's names of COCO classes."""


FITNESS_WEIGHTS = (0.1, 0.9)
"""Of AP50 and AP50:95."""


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class, in [0, 1]; NaN where the data set has no object of it that counts.

    Attributes:
        name: The class.
        objects: Objects without crowds; difficult ones count for COCO's figures only.
        ap: COCO AP, mean over IoU 0.50:0.95.
        ap50: The same at IoU 0.5.
        voc07: 11-point AP at IoU 0.5.
        voc12: Area under the curve at IoU 0.5.
        darknet: The same by darknet's matching.
        precision: At IoU 0.5 and `DetectionMetrics.confidence`.
        recall: Likewise.
        f1: Likewise.
    """

    name: str
    objects: int
    ap: float
    ap50: float
    voc07: float
    voc12: float
    darknet: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class DetectionMetrics:
    """Figures of a data set, in [0, 1]; NaN if undefined.

    Attributes:
        ap: COCO AP: mean over IoU 0.50:0.95 and classes, 101 recall points, 100 detections per image.
        ap50: The same at IoU 0.5.
        ap75: The same at IoU 0.75.
        ap_small: `ap` of objects below 32**2 pixels; `ap_medium` below 96**2, `ap_large` above.
        voc07: Mean over classes of the 11-point AP at IoU 0.5, difficult objects left out.
        voc12: Mean over classes of the area under the interpolated curve at IoU 0.5, likewise.
        darknet: What ``darknet detector map`` prints.
        confidence: Threshold of the highest mean F1.
        precision: Mean over classes at that threshold, by the matching of `voc12`.
        recall: Likewise.
        f1: Likewise.
        classes: Per class.
        images: Number of images.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    voc07: float
    voc12: float
    darknet: DarknetMetrics
    confidence: float
    precision: float
    recall: float
    f1: float
    classes: tuple[ClassMetrics, ...]
    images: int

    @property
    def fitness(self) -> float:
        """``0.1 AP50 + 0.9 AP50:95``, by which checkpoints are compared."""
        return FITNESS_WEIGHTS[0] * self.ap50 + FITNESS_WEIGHTS[1] * self.ap


def match_classes(model_names: Sequence[str], dataset_names: Sequence[str]) -> list[int]:
    """Return for every model class the data set's class of the same name (VOC's synonyms included), or -1.

    Raises:
        DataError: No class is common.
    """
    index = {_canonical_name(name): i for i, name in enumerate(dataset_names)}
    mapping = [index.get(_canonical_name(name), -1) for name in model_names]
    if all(i < 0 for i in mapping):
        raise DataError(
            f"no class name of the model ({', '.join(model_names[:3])}, ...) is one of the data set's "
            f"({', '.join(dataset_names[:3])}, ...); give the model's names with --names"
        )
    return mapping


def _canonical_name(name: str) -> str:
    name = name.strip().lower()
    return VOC_SYNONYMS.get(name, name)


def evaluate_detections(
    dataset: DetectionDataset, detections: Sequence[Detections | None], class_map: Sequence[int]
) -> DetectionMetrics:
    """Compare detections with the ground truth.

    Args:
        dataset: Ground truth.
        detections: One entry per item of `dataset`, boxes in image pixels; None counts as no detection.
        class_map: Model class -> data set class or -1 (see `match_classes`); only matched classes are evaluated.

    Returns:
        All metrics.
    """
    coco = coco_precision(dataset, detections, class_map)
    voc = match_detections(dataset, detections, class_map, MatchRule.VOC)
    darknet = match_detections(dataset, detections, class_map, MatchRule.DARKNET)
    curves = make_curves(voc)
    labels = np.concatenate([item.labels[~item.crowd] for item in dataset.items] or [np.zeros(0, np.int64)])
    objects = np.bincount(labels, minlength=len(dataset.names))
    classes = []
    for column, label in enumerate(coco.labels):
        precision, recall, f1 = curves.at_best(label)
        classes.append(
            ClassMetrics(
                name=dataset.names[label],
                objects=int(objects[label]),
                ap=coco.mean(column=column),
                ap50=coco.mean(0, column),
                voc07=eleven_points(voc[label]),
                voc12=area_under_envelope(voc[label]),
                darknet=area_under_envelope(darknet[label]),
                precision=precision,
                recall=recall,
                f1=f1,
            )
        )
    return DetectionMetrics(
        ap=coco.mean(),
        ap50=coco.mean(0),
        ap75=coco.mean(5),
        ap_small=coco.mean(area=1),
        ap_medium=coco.mean(area=2),
        ap_large=coco.mean(area=3),
        voc07=_mean([c.voc07 for c in classes]),
        voc12=_mean([c.voc12 for c in classes]),
        darknet=darknet_metrics(darknet),
        confidence=curves.best_confidence,
        precision=_mean([c.precision for c in classes]),
        recall=_mean([c.recall for c in classes]),
        f1=_mean([c.f1 for c in classes]),
        classes=tuple(classes),
        images=len(dataset),
    )


def _mean(values: Sequence[float]) -> float:
    """Mean of the defined values, NaN if there is none."""
    defined = np.array([v for v in values if not np.isnan(v)], np.float64)
    return float(defined.mean()) if defined.size else float("nan")

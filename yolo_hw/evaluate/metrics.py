# SPDX-License-Identifier: Apache-2.0
"""Detection metrics by pycocotools: COCO AP and, with its matching at IoU 0.5, Pascal VOC AP."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_hw.data.dataset import DetectionDataset
from yolo_hw.errors import DataError
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


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class, in [0, 1]; NaN where the data set has no object of it."""

    name: str
    objects: int
    ap: float
    ap50: float
    voc07: float
    voc12: float


@dataclass(frozen=True)
class DetectionMetrics:
    """COCO and VOC figures of a data set, in [0, 1]; NaN if undefined.

    Attributes:
        ap: Mean over IoU 0.50:0.95 and classes, 101 recall points, 100 detections per image.
        ap50: The same at IoU 0.5.
        ap75: The same at IoU 0.75.
        ap_small: `ap` of objects below 32**2 pixels; `ap_medium` below 96**2, `ap_large` above.
        voc07: Mean over classes of the 11-point AP at IoU 0.5.
        voc12: Mean over classes of the area under the interpolated curve at IoU 0.5.
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
    classes: tuple[ClassMetrics, ...]
    images: int


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
    evaluated = sorted({i for i in class_map if i >= 0})
    truth = _ground_truth(dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        results = _results(truth, detections, class_map)
        coco = COCOeval(truth, results, "bbox")
        coco.params.catIds = [i + 1 for i in evaluated]
        coco.evaluate()
        coco.accumulate()
    voc = _voc_precision(truth, results, evaluated)
    precision = coco.eval["precision"]  # [IoU, recall, class, area, max detections]
    classes = tuple(
        ClassMetrics(
            name=dataset.names[label],
            objects=sum(int(((item.labels == label) & ~item.crowd).sum()) for item in dataset.items),
            ap=_mean(precision[:, :, k, 0, -1]),
            ap50=_mean(precision[0, :, k, 0, -1]),
            voc07=_mean(voc[::100, k]),
            voc12=_mean(voc[:, k]),
        )
        for k, label in enumerate(evaluated)
    )
    return DetectionMetrics(
        ap=_mean(precision[:, :, :, 0, -1]),
        ap50=_mean(precision[0, :, :, 0, -1]),
        ap75=_mean(precision[5, :, :, 0, -1]),
        ap_small=_mean(precision[:, :, :, 1, -1]),
        ap_medium=_mean(precision[:, :, :, 2, -1]),
        ap_large=_mean(precision[:, :, :, 3, -1]),
        voc07=_mean(voc[::100]),
        voc12=_mean(voc),
        classes=classes,
        images=len(dataset),
    )


def _voc_precision(truth: COCO, results: COCO, evaluated: list[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the interpolated precision [1001 recall points, class] at IoU 0.5 with all detections counted."""
    with contextlib.redirect_stdout(io.StringIO()):
        voc = COCOeval(truth, results, "bbox")
        voc.params.catIds = [i + 1 for i in evaluated]
        voc.params.iouThrs = np.array([0.5])
        voc.params.recThrs = np.linspace(0, 1, 1001)
        voc.params.maxDets = [1_000_000]
        voc.params.areaRng, voc.params.areaRngLbl = [[0, 1e10]], ["all"]
        voc.evaluate()
        voc.accumulate()
    return np.asarray(voc.eval["precision"][0, :, :, 0, 0], np.float64)


def _mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Mean of the defined entries; pycocotools marks undefined ones with -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _ground_truth(dataset: DetectionDataset) -> COCO:
    annotations: list[dict[str, Any]] = []
    for image_id, item in enumerate(dataset.items, start=1):
        for box, label, crowd, area in zip(item.boxes, item.labels, item.crowd, item.areas, strict=True):
            xywh = [*box[:2], *(box[2:] - box[:2])]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(label) + 1,
                    "bbox": [float(v) for v in xywh],
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(1, len(dataset.items) + 1)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(dataset.names, start=1)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _results(truth: COCO, detections: Sequence[Detections | None], class_map: Sequence[int]) -> COCO:
    rows: list[list[float]] = []
    for image_id, found in enumerate(detections, start=1):
        if found is None:
            continue
        for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True):
            if class_map[label] >= 0:
                x1, y1, x2, y2 = box
                rows.append([image_id, x1, y1, x2 - x1, y2 - y1, score, class_map[label] + 1])
    return truth.loadRes(np.array(rows, np.float64).reshape(-1, 7)) if rows else _empty_results(truth)


def _empty_results(truth: COCO) -> COCO:
    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty

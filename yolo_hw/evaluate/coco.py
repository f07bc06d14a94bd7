# SPDX-License-Identifier: Apache-2.0
"""COCO average precision by pycocotools."""

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
from yolo_hw.evaluate.matching import Floats, evaluated_classes
from yolo_hw.nn.nms import Detections


@dataclass(frozen=True)
class CocoPrecision:
    """Interpolated precision of COCO's evaluation; undefined entries are -1.

    Attributes:
        labels: Data set class of every column.
        values: [10 IoU 0.50:0.95, 101 recall, classes, 4 areas (all, small, medium, large)], 100 detections per image.
    """

    labels: tuple[int, ...]
    values: Floats

    def mean(self, iou: int | None = None, column: int | None = None, area: int = 0) -> float:
        """Average over what is not given, the defined entries only; NaN if none is."""
        chosen = self.values[..., area]
        chosen = chosen if iou is None else chosen[iou : iou + 1]
        chosen = chosen if column is None else chosen[:, :, column : column + 1]
        defined = chosen[chosen > -1]
        return float(defined.mean()) if defined.size else float("nan")


def coco_precision(
    dataset: DetectionDataset, detections: Sequence[Detections | None], class_map: Sequence[int]
) -> CocoPrecision:
    """Run COCO's evaluation, in which difficult objects are ordinary ones; arguments as for `evaluate_detections`."""
    labels = evaluated_classes(class_map)
    truth = _ground_truth(dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCOeval(truth, _results(truth, detections, class_map), "bbox")
        coco.params.catIds = [label + 1 for label in labels]
        coco.evaluate()
        coco.accumulate()
    return CocoPrecision(labels, np.asarray(coco.eval["precision"][..., -1], np.float64))


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

# SPDX-License-Identifier: Apache-2.0
"""Small ground truths and detections, by hand and at random."""

from pathlib import Path

import numpy as np
import torch

from yolo_hw.data import DetectionDataset, Item
from yolo_hw.nn import Detections

A, B, C = [10, 10, 50, 50], [60, 60, 90, 90], [0, 0, 40, 80]
NOWHERE = [200, 200, 220, 220]


def item(boxes, labels=None, crowd=None, areas=None, difficult=()):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    count = len(boxes)
    return Item(
        Path("x.jpg"),
        (300, 300),
        boxes,
        np.array(labels or [0] * count, np.int64),
        np.array(crowd or [False] * count, np.bool_),
        np.array(areas, np.float64) if areas else (boxes[:, 2:] - boxes[:, :2]).prod(1),
        np.array(difficult, np.bool_),
    )


def dataset(*items, names=("thing",)):
    return DetectionDataset(tuple(names), tuple(items))


def found(*rows):
    """Rows of (box, score) or (box, score, class)."""
    table = [(*box, score, *(label or [0])) for box, score, *label in rows]
    values = torch.tensor(table, dtype=torch.float64).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].long())


def random_case(seed, images=6, classes=3, crowds=True):
    """A data set with crowds and difficult objects, and detections near its objects, some of them with equal scores."""
    rng = np.random.default_rng(seed)
    items, detections = [], []
    for _ in range(images):
        count = int(rng.integers(0, 6))
        low = rng.integers(0, 60, (count, 2))
        boxes = np.concatenate([low, low + rng.integers(8, 40, (count, 2))], 1)
        labels = rng.integers(0, classes, count)
        crowd = rng.random(count) < (0.15 if crowds else 0)
        items.append(item(boxes, labels.tolist(), crowd.tolist(), difficult=rng.random(count) < 0.25))
        rows = []
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            for _ in range(int(rng.integers(0, 3))):
                moved = (np.array(box) + rng.integers(-6, 7, 4)).tolist()
                moved[2:] = [max(moved[0] + 1, moved[2]), max(moved[1] + 1, moved[3])]
                other = int(rng.integers(0, classes)) if rng.random() < 0.2 else label
                rows.append((moved, int(rng.integers(1, 20)) / 20, other))
        for _ in range(int(rng.integers(0, 3))):
            x, y = rng.integers(0, 80, 2).tolist()
            rows.append(([x, y, x + 15, y + 15], int(rng.integers(1, 20)) / 20, int(rng.integers(0, classes))))
        rows.sort(key=lambda row: -row[1])
        detections.append(found(*rows) if rows else None)
    return dataset(*items, names=[f"class{i}" for i in range(classes)]), detections

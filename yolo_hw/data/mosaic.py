# SPDX-License-Identifier: Apache-2.0
"""Training images made of several: mosaic and mixup."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from yolo_hw.data.affine import cropped
from yolo_hw.data.labelled import LabelledImage
from yolo_hw.data.preprocess import LETTERBOX_FILL
from yolo_hw.errors import DataError


def mosaic(samples: Sequence[LabelledImage], centre: tuple[float, float], min_visible: float) -> LabelledImage:
    """Lay four images around a point of a canvas of twice their size.

    Bochkovskiy et al., "YOLOv4: Optimal Speed and Accuracy of Object Detection", 2020, section 3.3.

    Args:
        samples: Four images of one size: above left, above right, below left and below right of the point.
        centre: (x, y) of the point, as a share of the canvas.
        min_visible: Share of a box that must lie on the canvas, else it is dropped.

    Returns:
        The canvas; what no image reaches is grey.
    """
    _require_one_size(samples)
    height, width = samples[0].size
    canvas = np.full((2 * height, 2 * width, samples[0].image.shape[2]), LETTERBOX_FILL, np.uint8)
    x, y = round(centre[0] * 2 * width), round(centre[1] * 2 * height)
    boxes, labels = [], []
    for number, sample in enumerate(samples):
        left = x if number % 2 else x - width
        top = y if number // 2 else y - height
        x1, x2 = max(left, 0), min(left + width, 2 * width)
        y1, y2 = max(top, 0), min(top + height, 2 * height)
        canvas[y1:y2, x1:x2] = sample.image[y1 - top : y2 - top, x1 - left : x2 - left]
        boxes.append(sample.boxes + np.array([left, top, left, top]))
        labels.append(sample.labels)
    return cropped(LabelledImage(canvas, np.concatenate(boxes), np.concatenate(labels)), min_visible)


def mixup(first: LabelledImage, second: LabelledImage, share: float) -> LabelledImage:
    """Blend two images of one size and keep the objects of both.

    Zhang et al., "Bag of Freebies for Training Object Detection Neural Networks", 2019, section 3.1: pixels are
    ``share * first + (1 - share) * second``; every object counts fully.
    """
    _require_one_size([first, second])
    image = cv2.addWeighted(first.image, share, second.image, 1 - share, 0)
    return LabelledImage(
        np.asarray(image, np.uint8).reshape(first.image.shape),
        np.concatenate([first.boxes, second.boxes]),
        np.concatenate([first.labels, second.labels]),
    )


def _require_one_size(samples: Sequence[LabelledImage]) -> None:
    shapes = sorted({sample.image.shape for sample in samples})
    if len(shapes) > 1:
        raise DataError(f"mosaic and mixup: all images must have one size, got {shapes}; wrap them in FittedImages")

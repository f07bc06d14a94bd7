# SPDX-License-Identifier: Apache-2.0
"""Drawing boxes on images."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from yolo_hw.data.image import ImageArray
from yolo_hw.nn.nms import Detections

_GOLDEN_RATIO = (5**0.5 - 1) / 2


def class_colour(label: int) -> tuple[int, int, int]:
    """Return a bright colour for a class; neighbouring labels differ widely."""
    r, g, b = colorsys.hsv_to_rgb((0.08 + label * _GOLDEN_RATIO) % 1.0, 0.75, 1.0)
    return int(255 * r), int(255 * g), int(255 * b)


def draw_detections(
    image: ImageArray, detections: Detections, names: Sequence[str], *, scores: bool = True
) -> ImageArray:
    """Return a copy of an image [H, W, 3] with boxes, class names and, but for true objects, scores."""
    picture = Image.fromarray(image)
    canvas = ImageDraw.Draw(picture)
    scale = max(min(picture.size) / 400, 0.6)
    font = ImageFont.load_default(size=max(round(13 * scale), 10))
    for box, score, label in zip(
        reversed(detections.boxes.tolist()),
        reversed(detections.scores.tolist()),
        reversed(detections.classes.tolist()),
        strict=True,
    ):
        colour = class_colour(label)
        canvas.rectangle(box, outline=colour, width=max(round(2 * scale), 1))
        text = f"{names[label]} {score:.2f}" if scores else names[label]
        left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
        width, height = right - left + 6, bottom - top + 6
        x = min(max(box[0], 0), max(picture.width - width, 0))
        y = box[1] - height if box[1] >= height else box[1]
        canvas.rectangle((x, y, x + width, y + height), fill=colour)
        canvas.text((x + 3 - left, y + 3 - top), text, fill=(0, 0, 0), font=font)
    return np.array(picture, np.uint8)

# SPDX-License-Identifier: Apache-2.0
"""Bringing an image to the network's input size, and boxes back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
from torch import Tensor

from yolo_hw.darknet.layers import Shape
from yolo_hw.data.image import ImageArray
from yolo_hw.errors import YoloHwError

LETTERBOX_FILL = 128
"""Grey of the letterbox border, darknet's 0.5."""


class Resize(str, Enum):
    """How an image of another shape is brought to the network's."""

    STRETCH = "stretch"
    """Each side on its own, as darknet's detector does."""
    LETTERBOX = "letterbox"
    """Keep the aspect ratio, fill the border with grey."""


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the network's input.

    ``u = x * scale_x + offset_x`` (likewise v, y) maps image pixels to the input, whose extent is 1.0.
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    width: int
    """Of the image, in pixels."""
    height: int

    def to_image(self, corners: Tensor) -> Tensor:
        """Map corner boxes [..., 4] from the input (extent 1.0) to image pixels, clipped to the image."""
        offset = corners.new_tensor([self.offset_x, self.offset_y] * 2)
        scale = corners.new_tensor([self.scale_x, self.scale_y] * 2)
        limit = corners.new_tensor([self.width, self.height] * 2)
        return ((corners - offset) / scale).clamp_min(0).minimum(limit)

    def to_input(self, corners: Tensor) -> Tensor:
        """Map corner boxes [..., 4] from image pixels to the input (extent 1.0)."""
        scale = corners.new_tensor([self.scale_x, self.scale_y] * 2)
        return corners * scale + corners.new_tensor([self.offset_x, self.offset_y] * 2)


def fit_image(image: ImageArray, net: Shape, mode: Resize) -> tuple[ImageArray, Placement]:
    """Resize an image bilinearly to the network's input.

    Args:
        image: [H, W, 3] uint8 RGB.
        net: Input shape of the network; with one channel the image becomes grey.
        mode: Stretch or letterbox.

    Returns:
        [net.h, net.w, net.c] uint8 and the placement for mapping boxes back.

    Raises:
        YoloHwError: The network's input is neither grey nor RGB.
    """
    if net.c not in (1, 3):
        raise YoloHwError(f"the network's input has {net.c} channels: images can be given to 1 (grey) or 3 (RGB) only")
    height, width = image.shape[:2]
    if mode is Resize.STRETCH:
        inner_w, inner_h = net.w, net.h
    else:
        ratio = min(net.w / width, net.h / height)
        inner_w, inner_h = max(round(width * ratio), 1), max(round(height * ratio), 1)
    left, top = (net.w - inner_w) // 2, (net.h - inner_h) // 2
    resized = image
    if (inner_h, inner_w) != (height, width):
        resized = np.asarray(cv2.resize(image, (inner_w, inner_h), interpolation=cv2.INTER_LINEAR), np.uint8)
    canvas = resized
    if resized is image or (inner_h, inner_w) != (net.h, net.w):
        canvas = np.full((net.h, net.w, 3), LETTERBOX_FILL, np.uint8)
        canvas[top : top + inner_h, left : left + inner_w] = resized
    if net.c == 1:
        canvas = np.asarray(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY), np.uint8)[:, :, None]
    placement = Placement(inner_w / width / net.w, inner_h / height / net.h, left / net.w, top / net.h, width, height)
    return canvas, placement

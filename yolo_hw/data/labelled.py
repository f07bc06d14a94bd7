# SPDX-License-Identifier: Apache-2.0
"""A training image with its objects, and where labelled images come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from yolo_hw.data.image import ImageArray


@dataclass(frozen=True)
class LabelledImage:
    """An image with its objects.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        boxes: [B, 4] float64 x1, y1, x2, y2 in pixels.
        labels: [B] int64.
    """

    image: ImageArray
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]


class ImageSource(Protocol):
    """Labelled images by number."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int, /) -> LabelledImage:
        """Image `index`, always the same."""

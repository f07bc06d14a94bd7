# SPDX-License-Identifier: Apache-2.0
"""Image files as batches of prepared bytes, as calibration takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from yolo_hw.darknet.layers import Shape
from yolo_hw.data.image import find_images, read_image
from yolo_hw.data.preprocess import Resize, fit_image


def load_batches(
    source: str | Path, net: Shape, *, resize: Resize = Resize.STRETCH, batch: int = 8, limit: int | None = None
) -> list[npt.NDArray[np.uint8]]:
    """Read images and bring them to a network's input size.

    Args:
        source: An image, a folder or a list (see `find_images`).
        net: Shape of the network's input, ``model.network.input``.
        resize: Stretch or letterbox.
        batch: Images per batch.
        limit: Use only the first images.

    Returns:
        Batches [N, H, W, C] uint8.

    Raises:
        DataError: There is no image, or one cannot be read.
    """
    images = [fit_image(read_image(path), net, resize)[0] for path in find_images(source)[:limit]]
    return [np.stack(images[i : i + batch]) for i in range(0, len(images), batch)]

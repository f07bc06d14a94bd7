# SPDX-License-Identifier: Apache-2.0
"""The images of ``yolo-hw prune``: labelled ones to measure on, samples for formats, statistics and comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yolo_hw.cli.console import note
from yolo_hw.darknet.layers import Shape
from yolo_hw.darknet.network import Network
from yolo_hw.data.augment import AugmentConfig
from yolo_hw.data.dataset import DetectionDataset, open_dataset, read_names
from yolo_hw.data.image import ImageArray, find_images, read_image
from yolo_hw.data.preprocess import Resize, fit_image
from yolo_hw.errors import DataError, PruneError
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.darknet_statistics import activation_statistics, gradient_statistics
from yolo_hw.prune.scoring import Statistics
from yolo_hw.train import CachedImages, DatasetImages, FittedImages, TrainConfig
from yolo_hw.train.batches import train_batches

BATCH = 8
NO_AUGMENTATION = AugmentConfig(flip_x=0, hue=0, saturation=0, value=0)


@dataclass(frozen=True)
class Samples:
    """Images.

    Attributes:
        dataset: Labelled images, or None.
        pixels: Samples of the network's input size, [H, W, C] uint8.
        resize: How images are brought to that size.
    """

    dataset: DetectionDataset | None
    pixels: list[ImageArray]
    resize: Resize

    def batches(self) -> Iterator[ImageArray]:
        """Yield the samples as [N, H, W, C] uint8."""
        for start in range(0, len(self.pixels), BATCH):
            yield np.stack(self.pixels[start : start + BATCH])

    def tensors(self) -> Iterator[Tensor]:
        """Yield the samples as the float model takes them, [N, C, H, W]."""
        for batch in self.batches():
            yield torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255


def open_samples(options: dict[str, Any], network: Network) -> Samples:
    """Open what ``--data`` and ``--images`` name; unreadable samples are named and left out.

    Raises:
        DataError: They name nothing that can be read.
    """
    dataset = None
    if options["data"] is not None:
        names = None if options["names"] is None else read_names(options["names"])
        dataset = open_dataset(options["data"], names, split=options["split"], usual_split="val")
        for warning in dataset.warnings:
            note(f"warning: {warning}")
        if not dataset.items:
            raise DataError(f"{options['data']}: no image to measure on")
    source = options["images"]
    paths = find_images(source) if source is not None else [item.path for item in dataset.items] if dataset else []
    resize = Resize(options["resize"])
    pixels = _read(paths, network.input, resize, options["max_images"])
    if paths and not pixels:
        raise DataError(f"{source or options['data']}: none of the {len(paths)} images can be read")
    return Samples(dataset, pixels, resize)


def _read(paths: list[Any], shape: Shape, resize: Resize, most: int) -> list[ImageArray]:
    found: list[ImageArray] = []
    for path in paths:
        if len(found) == most:
            break
        try:
            found.append(fit_image(read_image(path), shape, resize)[0])
        except DataError as error:
            note(f"skipped: {error}")
    return found


def statistics_of(importance: str | object | None, model: Darknet, samples: Samples) -> Statistics | None:
    """Collect what a criterion needs beyond the weights.

    Raises:
        PruneError: There are no images for it.
    """
    if importance == "activation":
        if not samples.pixels:
            raise PruneError("--importance activation needs images: give --images or --data")
        return activation_statistics(model, samples.tensors())
    if importance in ("taylor", "taylor-gate"):
        if samples.dataset is None:
            raise PruneError(f"--importance {importance} needs labelled images for gradients: give --data")
        count = min(len(samples.dataset), len(samples.pixels))
        dataset = DetectionDataset(samples.dataset.names, samples.dataset.items[:count])
        fitted = FittedImages(DatasetImages(dataset), model.network.input, samples.resize)
        config = TrainConfig(epochs=1, batch=min(BATCH, count), augment=NO_AUGMENTATION)
        return gradient_statistics(model, train_batches(CachedImages(fitted, 1 << 30), config, 0))
    return None

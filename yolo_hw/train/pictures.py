# SPDX-License-Identifier: Apache-2.0
"""Pictures of what a run sees: training batches as the model gets them, found and true objects side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from yolo_hw.atomic import atomic_file
from yolo_hw.data.dataset import DetectionDataset, Item
from yolo_hw.data.image import ImageArray, read_image
from yolo_hw.errors import DataError
from yolo_hw.evaluate import DetectorConfig, HeadRunner, detect_images
from yolo_hw.evaluate.draw import draw_detections
from yolo_hw.nn.nms import Detections
from yolo_hw.train.batches import Batch

MOST_IMAGES = 16
SIDE = 320
"""Longest side of one image in a picture."""


def batch_picture(batch: Batch, names: Sequence[str]) -> ImageArray:
    """Draw the first images of a batch with their boxes, in a square of rows and columns."""
    height, width = batch.images.shape[2:]
    tiles = []
    for i in range(min(len(batch.images), MOST_IMAGES)):
        image = (batch.images[i].permute(1, 2, 0).float() * 255).round().to(torch.uint8).cpu().numpy()
        rows = batch.targets[batch.targets[:, 0] == i].cpu()
        sides = torch.tensor([width, height, width, height])
        centre, half = rows[:, 2:4], rows[:, 4:6] / 2
        boxes = torch.cat([centre - half, centre + half], 1) * sides
        tiles.append(draw(image, boxes.numpy(), rows[:, 1].long().numpy(), names))
    return mosaic(tiles)


def true_picture(dataset: DetectionDataset, count: int = MOST_IMAGES) -> ImageArray:
    """Draw the first images of a data set with their objects."""
    tiles = []
    for item, image in _first(dataset, count):
        kept = ~item.crowd
        tiles.append(draw(image, item.boxes[kept], item.labels[kept], dataset.names))
    return mosaic(tiles)


def found_picture(
    runner: HeadRunner, dataset: DetectionDataset, config: DetectorConfig, count: int = MOST_IMAGES
) -> ImageArray:
    """Draw the same images with what a network finds in them."""
    images = [image for _, image in _first(dataset, count)]
    found = detect_images(runner, images, config)
    return mosaic([_small(draw_detections(i, f, dataset.names)) for i, f in zip(images, found, strict=True)])


def write_picture(path: Path, image: ImageArray) -> None:
    """Write an image as JPEG."""
    with atomic_file(path) as temporary:
        Image.fromarray(image).save(temporary, format="JPEG", quality=90)


def draw(image: ImageArray, boxes: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> ImageArray:
    """Draw true boxes, small enough for a mosaic."""
    truth = Detections(torch.from_numpy(boxes).float(), torch.ones(len(boxes)), torch.from_numpy(labels))
    return _small(draw_detections(image, truth, names, scores=False))


def mosaic(tiles: Sequence[ImageArray]) -> ImageArray:
    """Lay images out in a square of rows and columns, each in a cell of the largest one's size."""
    columns = int(np.ceil(len(tiles) ** 0.5))
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    canvas = np.full((-(-len(tiles) // columns) * height, columns * width, 3), 114, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * height, i % columns * width
        canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return canvas


def _first(dataset: DetectionDataset, count: int) -> list[tuple[Item, ImageArray]]:
    """The first images that can be read."""
    found: list[tuple[Item, ImageArray]] = []
    for item in dataset.items:
        if len(found) == count:
            break
        with suppress(DataError):  # the measurement names it
            found.append((item, read_image(item.path)))
    return found


def _small(image: ImageArray) -> ImageArray:
    height, width = image.shape[:2]
    ratio = min(SIDE / max(height, width), 1.0)
    size = (max(round(width * ratio), 1), max(round(height * ratio), 1))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)

# SPDX-License-Identifier: Apache-2.0
"""Images and detection data sets."""

from yolo_hw.data.batches import load_batches
from yolo_hw.data.dataset import DetectionDataset, Item, open_dataset, read_coco, read_names, read_yolo
from yolo_hw.data.image import find_images, read_image
from yolo_hw.data.preprocess import Placement, Resize, fit_image

__all__ = [
    "DetectionDataset",
    "Item",
    "Placement",
    "Resize",
    "find_images",
    "fit_image",
    "load_batches",
    "open_dataset",
    "read_coco",
    "read_image",
    "read_names",
    "read_yolo",
]

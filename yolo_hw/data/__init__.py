# SPDX-License-Identifier: Apache-2.0
"""Images and data sets for detection and classification."""

from yolo_hw.data.batches import load_batches
from yolo_hw.data.classification import ClassificationDataset, open_classification, read_cifar, read_class_folders
from yolo_hw.data.dataset import (
    DetectionDataset,
    Finding,
    Flaw,
    Item,
    open_dataset,
    read_coco,
    read_names,
    read_yolo,
    splits_of,
)
from yolo_hw.data.image import find_images, read_image
from yolo_hw.data.preprocess import Placement, Resize, fit_image
from yolo_hw.data.shapes import generate_shapes

__all__ = [
    "ClassificationDataset",
    "DetectionDataset",
    "Finding",
    "Flaw",
    "Item",
    "Placement",
    "Resize",
    "find_images",
    "fit_image",
    "generate_shapes",
    "load_batches",
    "open_classification",
    "open_dataset",
    "read_cifar",
    "read_class_folders",
    "read_coco",
    "read_image",
    "read_names",
    "read_yolo",
    "splits_of",
]

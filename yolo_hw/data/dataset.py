# SPDX-License-Identifier: Apache-2.0
"""Detection data sets in memory, and the readers that fill them: COCO json and YOLO text labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from yolo_hw.data.image import find_images, image_size
from yolo_hw.errors import DataError

MAX_JSON_BYTES = 2 << 30


@dataclass(frozen=True)
class Item:
    """One image with its ground truth.

    Attributes:
        path: The image file.
        size: (height, width) in pixels.
        boxes: [B, 4] float64 x1, y1, x2, y2 in pixels.
        labels: [B] int64, index into the data set's names.
        crowd: [B] bool, COCO's iscrowd: regions where detections are neither right nor wrong.
        areas: [B] float64, area of the object in pixels (of its mask if the source knows one).
    """

    path: Path
    size: tuple[int, int]
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float64]


@dataclass(frozen=True)
class DetectionDataset:
    """Images with boxes.

    Attributes:
        names: Class names.
        items: The images.
        warnings: Label entries that were dropped, one message each.
    """

    names: tuple[str, ...]
    items: tuple[Item, ...]
    warnings: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.items)


def read_names(path: str | Path) -> tuple[str, ...]:
    """Read a darknet ``.names`` file: one class name per line."""
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot read the class names: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: class names must be UTF-8 text") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise DataError(f"{path}: no class name in this file")
    return names


def open_dataset(source: str | Path, names: Sequence[str] | None = None) -> DetectionDataset:
    """Open a data set by what `source` is.

    Args:
        source: A COCO ``instances*.json`` (or a folder with exactly one), or a list file or folder of images whose
            labels are YOLO text files: in a ``labels`` folder beside ``images``, else beside the image.
        names: Class names for YOLO labels; COCO files bring their own.

    Returns:
        The data set; images are not decoded yet.

    Raises:
        DataError: Nothing readable there.
    """
    source = Path(source)
    if source.is_dir():
        annotations = sorted(source.glob("*.json"))
        if len(annotations) == 1:
            return read_coco(annotations[0], source / "images" if (source / "images").is_dir() else source)
        if len(annotations) > 1:
            raise DataError(f"{source}: {len(annotations)} json files, name one of them")
    if source.suffix.lower() == ".json":
        images = source.parent / "images"
        return read_coco(source, images if images.is_dir() else source.parent)
    return read_yolo(find_images(source), names)


def read_coco(annotations: str | Path, images: str | Path) -> DetectionDataset:
    """Read a COCO instances file.

    Args:
        annotations: The json file.
        images: Folder of its ``file_name`` entries.

    Returns:
        The data set; class order is that of the category ids.

    Raises:
        DataError: The file is no COCO instances json.
    """
    annotations = Path(annotations)
    try:
        if annotations.stat().st_size > MAX_JSON_BYTES:
            raise DataError(f"{annotations}: larger than {MAX_JSON_BYTES} bytes")
        document = json.loads(annotations.read_bytes())
        categories = sorted(document["categories"], key=lambda c: int(c["id"]))
        class_of = {int(c["id"]): i for i, c in enumerate(categories)}
        by_image: dict[int, list[dict[str, object]]] = {int(image["id"]): [] for image in document["images"]}
        for annotation in document["annotations"]:
            by_image[int(annotation["image_id"])].append(annotation)
        items = tuple(
            _coco_item(Path(images), image, by_image[int(image["id"])], class_of) for image in document["images"]
        )
        return DetectionDataset(tuple(str(c["name"]) for c in categories), items)
    except OSError as error:
        raise DataError(f"{annotations}: cannot read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{annotations}: not a COCO instances file: {type(error).__name__} {error}") from None


def _coco_item(
    folder: Path, image: dict[str, object], annotations: list[dict[str, object]], class_of: dict[int, int]
) -> Item:
    name = Path(str(image["file_name"]))
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"file_name {name} leaves the image folder")
    xywh = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    return Item(
        folder / name,
        (int(str(image["height"])), int(str(image["width"]))),
        np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1),
        np.array([class_of[int(str(a["category_id"]))] for a in annotations], np.int64),
        np.array([bool(a.get("iscrowd", 0)) for a in annotations], np.bool_),
        np.array([a.get("area", w * h) for a, (_, _, w, h) in zip(annotations, xywh, strict=True)], np.float64),
    )


def read_yolo(images: Sequence[Path], names: Sequence[str] | None = None) -> DetectionDataset:
    """Read YOLO text labels (``class cx cy w h``, relative to the image) of a list of images.

    Args:
        images: Image paths.
        names: Class names; without them classes are named by number.

    Returns:
        The data set; an image without a label file has no objects, nor has one that cannot be read (with a warning).

    Raises:
        DataError: A label file is malformed.
    """
    warnings: list[str] = []
    items = tuple(_yolo_item(path, warnings) for path in images)
    highest = max((int(item.labels.max()) for item in items if item.labels.size), default=-1)
    if names is None:
        names = [str(i) for i in range(highest + 1)]
    if highest >= len(names):
        raise DataError(f"labels use class {highest}, but there are {len(names)} class names")
    return DetectionDataset(tuple(names), items, tuple(warnings))


def label_path(image: Path) -> Path:
    """Return the label file of an image: the last ``images`` folder becomes ``labels``, the suffix ``.txt``."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return Path(*parts).with_suffix(".txt")


def _yolo_item(path: Path, warnings: list[str]) -> Item:
    labels = label_path(path)
    rows: list[tuple[int, float, float, float, float]] = []
    try:
        height, width = image_size(path)
    except DataError as error:
        warnings.append(f"{error}; its labels are not used")
        height, width = 0, 0
    if height and labels.is_file():
        for number, line in enumerate(_label_lines(labels), start=1):
            if line.strip():
                row = _yolo_row(labels, number, line)
                if row[3] <= 0 or row[4] <= 0:
                    warnings.append(f"{labels}:{number}: box without area dropped")
                else:
                    rows.append(row)
    table = np.array(rows, np.float64).reshape(-1, 5)
    half = table[:, 3:] / 2
    boxes = np.concatenate([table[:, 1:3] - half, table[:, 1:3] + half], 1) * np.array([width, height] * 2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return Item(path, (height, width), boxes, table[:, 0].astype(np.int64), np.zeros(len(table), np.bool_), areas)


def _label_lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the labels: {error}") from None


def _yolo_row(path: Path, number: int, line: str) -> tuple[int, float, float, float, float]:
    try:
        fields = line.split()
        values = [float(field) for field in fields[1:]]
        label = int(fields[0])
        if len(values) != 4 or label < 0 or not np.isfinite(values).all():
            raise ValueError
    except ValueError:
        raise DataError(f"{path}:{number}: expected 'class cx cy w h', got '{line[:60]}'") from None
    return (label, values[0], values[1], values[2], values[3])

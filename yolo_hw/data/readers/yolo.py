# SPDX-License-Identifier: Apache-2.0
"""YOLO text labels (``class cx cy w h``, relative to the image) of a folder or a list of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yolo_hw.data.image import IMAGE_SUFFIXES, find_images
from yolo_hw.data.items import DetectionDataset, Findings, Flaw, Item, Row
from yolo_hw.data.readers.format import Format, Request, check_split, read_item, rows_of_lines
from yolo_hw.errors import DataError

IMAGE_FOLDERS = ("images", "JPEGImages")
"""Folders whose labels lie in a folder ``labels`` beside them."""


def recognises(path: Path) -> bool:
    """Return whether this can be an image, a list of images or a folder of them."""
    return path.is_dir() or path.suffix.lower() in {".txt", *IMAGE_SUFFIXES}


def splits(path: Path) -> tuple[str, ...]:
    """Return the names of the folders ``images/<split>`` or ``<split>/images``."""
    inner = path / "images"
    if inner.is_dir():
        return tuple(sorted(folder.name for folder in inner.iterdir() if folder.is_dir()))
    if path.is_dir():
        return tuple(sorted(folder.name for folder in path.iterdir() if (folder / "images").is_dir()))
    return ()


def read(request: Request) -> DetectionDataset:
    """Read a folder or a list of images with their labels."""
    path = request.path
    check_split(request, splits(path))
    names = request.names
    if path.is_dir() and names is None:
        files = [*path.glob("*.names"), *path.glob("classes.txt")]
        names = read_names(files[0]) if len(files) == 1 else None
    if request.split is not None:
        path = path / "images" / request.split if (path / "images").is_dir() else path / request.split
    return read_yolo(find_images(path), names, request.findings)


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


def read_yolo(
    images: Sequence[Path], names: Sequence[str] | None = None, findings: Findings | None = None
) -> DetectionDataset:
    """Read the YOLO text labels of a list of images.

    Args:
        images: Image paths.
        names: Class names; without them classes are named by number.
        findings: Takes what was dropped or changed.

    Returns:
        The data set; an image without a label file has no objects, nor has one that cannot be read (with a finding).

    Raises:
        DataError: A label file is malformed, or uses a class without a name.
    """
    findings = findings or Findings()
    limit = len(names) if names is not None else None
    items = tuple(_item(path, limit, findings) for path in images)
    if names is None:
        highest = max((int(item.labels.max()) for item in items if item.labels.size), default=-1)
        names = [str(i) for i in range(highest + 1)]
    return DetectionDataset(tuple(names), items, tuple(findings.found))


def label_path(image: Path) -> Path:
    """Return the label file of an image: its last folder of `IMAGE_FOLDERS` becomes ``labels``, the suffix ``.txt``."""
    parts = list(image.parts)
    places = [i for i, part in enumerate(parts[:-1]) if part in IMAGE_FOLDERS]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _item(path: Path, classes: int | None, findings: Findings) -> Item:
    labels = label_path(path)

    def rows(size: tuple[int, int]) -> list[Row]:
        if not labels.is_file():
            return []
        return rows_of_lines(labels, "labels", lambda place, line: row_of(place, line, size))

    def row_of(place: str, line: str, size: tuple[int, int]) -> Row | None:
        row = _row(place, line, size, findings)
        return row if row is not None and _known(row, classes, findings) else None

    return read_item(path, 0, findings, rows)


def _known(row: Row, classes: int | None, findings: Findings) -> bool:
    if classes is None or row.label < classes:
        return True
    message = f"labels use class {row.label}, but there are {classes} class names"
    findings.refuse(Flaw.UNKNOWN_CLASS, row.place, message)
    return False


def _row(place: str, line: str, size: tuple[int, int], findings: Findings) -> Row | None:
    try:
        fields = line.split()
        label = int(fields[0])
        x, y, w, h = (float(field) for field in fields[1:])
        if label < 0:
            raise ValueError
    except ValueError:
        findings.refuse(Flaw.MALFORMED, place, f"expected 'class cx cy w h', got '{line[:60]}'")
        return None
    height, width = size
    box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * [width, height, width, height]
    return Row(place, label, (float(box[0]), float(box[1]), float(box[2]), float(box[3])))


FORMAT = Format("yolo", recognises, splits, read)

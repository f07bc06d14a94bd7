# SPDX-License-Identifier: Apache-2.0
"""Oxford hand data set: ``images/*.jpg`` and ``annotations/*.mat`` with the corners a, b, c, d of turned rectangles.

Mittal, Zisserman, Torr, "Hand detection using multiple proposals", BMVC 2011. A corner is (y, x), counted from 1. The
boxes are the upright hulls of the rectangles; reading ``.mat`` files needs scipy.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from yolo_hw.data.items import DetectionDataset, Findings, Flaw, Item, Row
from yolo_hw.data.readers.format import Format, Request, annotated_images, check_split, read_bytes, read_item
from yolo_hw.errors import DataError

HAND_NAMES = ("hand",)
FOLDERS = {
    "train": "training_dataset/training_data",
    "val": "validation_dataset/validation_data",
    "test": "test_dataset/test_data",
}
MAX_MAT_BYTES = 16 << 20


def recognises(path: Path) -> bool:
    """Return whether a folder, or one for each split in it, has ``images`` and ``annotations/*.mat``."""
    return bool(_parts(path))


def splits(path: Path) -> tuple[str, ...]:
    """Return which of train, val and test there are."""
    return tuple(name for name in _parts(path) if name)


def read(request: Request) -> DetectionDataset:
    """Read the annotations of one folder, or of all."""
    check_split(request, splits(request.path))
    images = annotated_images(request, _parts(request.path), ".mat")
    items = tuple(_item(image, file, request.findings) for image, file in images)
    return DetectionDataset(HAND_NAMES, items, tuple(request.findings.found))


def _parts(path: Path) -> dict[str, Path]:
    if _is_part(path):
        return {"": path}
    return {name: path / inner for name, inner in FOLDERS.items() if _is_part(path / inner)}


def _is_part(path: Path) -> bool:
    return (path / "images").is_dir() and next((path / "annotations").glob("*.mat"), None) is not None


def _item(image: Path, file: Path, findings: Findings) -> Item:
    return read_item(image, len(HAND_NAMES), findings, lambda _: _rows(file, findings))


def _rows(file: Path, findings: Findings) -> list[Row]:
    rows = []
    try:
        for number, corners in enumerate(_rectangles(file), start=1):
            y1, x1 = corners.min(0) - 1
            y2, x2 = corners.max(0)
            rows.append(Row(f"{file}: box {number}", 0, (float(x1), float(y1), float(x2), float(y2))))
    except DataError as error:
        findings.refuse(Flaw.MALFORMED, str(file), str(error).removeprefix(f"{file}: "))
    return rows


def _rectangles(file: Path) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """Return the corners [4, 2] (y, x) of every rectangle of a ``.mat`` file."""
    from scipy.io import loadmat  # noqa: PLC0415  only this format needs it, and it takes long to load

    try:
        cells = loadmat(io.BytesIO(read_bytes(file, MAX_MAT_BYTES)), squeeze_me=False)["boxes"]
        found = []
        for cell in cells.reshape(-1):
            record = cell.reshape(-1)[0]
            corners = np.array([np.asarray(record[key], np.float64).reshape(-1)[:2] for key in "abcd"])
            if corners.shape != (4, 2):
                raise ValueError("a corner must be two numbers")
            found.append(corners)
        return found
    except DataError:
        raise
    except Exception as error:  # scipy raises whatever a damaged file makes its code do
        raise DataError(f"{file}: not an annotation of the hand data set: {type(error).__name__} {error}") from None


FORMAT = Format("hand", recognises, splits, read)

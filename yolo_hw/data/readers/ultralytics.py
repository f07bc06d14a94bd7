# SPDX-License-Identifier: Apache-2.0
"""The ``data.yaml`` of ultralytics: ``path``, ``train``, ``val``, ``test``, ``names``; labels are YOLO text.

https://docs.ultralytics.com/datasets/detect
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from yolo_hw.data.image import find_images
from yolo_hw.data.items import DetectionDataset
from yolo_hw.data.readers.format import Format, Request, check_split, mentions, read_bytes
from yolo_hw.data.readers.yolo import read_yolo
from yolo_hw.errors import DataError

SPLITS = ("train", "val", "test")
MAX_YAML_BYTES = 1 << 20


def recognises(path: Path) -> bool:
    """Return whether this is a yaml file, or a folder with exactly one that names train and classes."""
    return _yaml_file(path) is not None


def splits(path: Path) -> tuple[str, ...]:
    """Return which of train, val and test the file names."""
    file = _yaml_file(path)
    document = _document(file) if file else {}
    return tuple(split for split in SPLITS if document.get(split))


def read(request: Request) -> DetectionDataset:
    """Read the images that a ``data.yaml`` names."""
    check_split(request, splits(request.path))
    file = _yaml_file(request.path)
    assert file is not None
    document = _document(file)
    images: dict[Path, None] = {}
    for split in [request.split] if request.split else splits(file):
        images |= dict.fromkeys(_images(file, document, split))
    if not images:
        raise DataError(f"{file}: names neither train nor val images")
    return read_yolo(list(images), _names(file, document), request.findings)


def _yaml_file(path: Path) -> Path | None:
    if path.is_dir():
        found = [file for file in (*path.glob("*.yaml"), *path.glob("*.yml")) if mentions(file, b"names", b"train")]
        return found[0] if len(found) == 1 else None
    return path if path.suffix.lower() in (".yaml", ".yml") else None


def _document(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(read_bytes(file, MAX_YAML_BYTES))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{file}: not a YAML file: {reason}") from None
    if not isinstance(document, dict):
        raise DataError(f"{file}: expected the keys train, val and names, got {type(document).__name__}")
    return document


def _names(file: Path, document: dict[str, Any]) -> tuple[str, ...]:
    names = document.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(f"{file}: names must be numbered 0 .. {len(names) - 1}, got {list(names)[:5]}")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, (str, int)) for n in names):
        raise DataError(f"{file}: names must be a list of class names, or a map from number to name")
    if document.get("nc", len(names)) != len(names):
        raise DataError(f"{file}: nc is {document['nc']}, but there are {len(names)} names")
    return tuple(str(name) for name in names)


def _images(file: Path, document: dict[str, Any], split: str) -> list[Path]:
    entries = document[split] if isinstance(document[split], list) else [document[split]]
    base = file.parent / str(document.get("path") or "")
    found: list[Path] = []
    for entry in entries:
        if not isinstance(entry, str):
            raise DataError(f"{file}: {split} must name a folder or a list of images, got {entry!r}")
        places = [base / entry, base / entry.removeprefix("../")]  # exports of Roboflow have one ../ too many
        place = next((place for place in places if place.exists()), None)
        if place is None:
            raise DataError(f"{file}: {split}: {places[0]}: no such file or folder")
        found += find_images(place)
    return found


FORMAT = Format("ultralytics", recognises, splits, read)

# SPDX-License-Identifier: Apache-2.0
"""Darknet ``.data`` files: ``classes``, ``names`` and the image lists ``train`` and ``valid``; labels are YOLO text.

Darknet takes relative paths from the folder it is started in. Here they are relative to the folder of the ``.data``
file or the one above it, whichever has the file; those in an image list also to the folder of the list.
"""

from __future__ import annotations

from pathlib import Path

from yolo_hw.data.image import find_images
from yolo_hw.data.items import DetectionDataset
from yolo_hw.data.readers.format import Format, Request, check_split, read_lines
from yolo_hw.data.readers.yolo import read_names, read_yolo
from yolo_hw.errors import DataError

SPLIT_KEYS = {"train": "train", "val": "valid", "test": "test"}


def recognises(path: Path) -> bool:
    """Return whether this is a ``.data`` file or a folder with exactly one."""
    return _data_file(path) is not None


def splits(path: Path) -> tuple[str, ...]:
    """Return which of train, val and test the file names."""
    file = _data_file(path)
    options = read_options(file) if file else {}
    return tuple(split for split, key in SPLIT_KEYS.items() if key in options)


def read(request: Request) -> DetectionDataset:
    """Read the images that a ``.data`` file names."""
    check_split(request, splits(request.path))
    file = _data_file(request.path)
    assert file is not None
    options = read_options(file)
    keys = [SPLIT_KEYS[request.split]] if request.split else [SPLIT_KEYS[split] for split in splits(file)]
    if not keys:
        raise DataError(f"{file}: names neither train nor valid images")
    names = read_names(_located(file, "names", options)) if "names" in options else request.names
    classes = options.get("classes", "")
    if names is not None and classes and classes != str(len(names)):
        raise DataError(f"{file}: classes = {classes}, but there are {len(names)} class names")
    images = {path: None for key in keys for path in _images(file, _located(file, key, options))}
    return read_yolo(list(images), names, request.findings)


def read_options(path: Path) -> dict[str, str]:
    """Read the ``key = value`` lines of a ``.data`` file."""
    options = {}
    for number, line in enumerate(read_lines(path), start=1):
        key, equals, value = line.partition("=")
        if line.strip() and not line.lstrip().startswith(("#", ";")):
            if not equals:
                raise DataError(f"{path}:{number}: expected 'key = value', got '{line[:60]}'")
            options[key.strip()] = value.strip()
    return options


def _data_file(path: Path) -> Path | None:
    if path.is_dir():
        found = list(path.glob("*.data"))
        return found[0] if len(found) == 1 else None
    return path if path.suffix.lower() == ".data" else None


def _located(file: Path, key: str, options: dict[str, str]) -> Path:
    places = [folder / options[key] for folder in (file.parent, file.absolute().parent.parent)]
    for place in places:
        if place.exists():
            return place
    raise DataError(f"{file}: {key} = {options[key]}: no such file beside the .data file or in the folder above it")


def _images(file: Path, source: Path) -> list[Path]:
    images = find_images(source)
    if source.is_dir() or images[0].exists():
        return images
    for folder in (file.parent, file.absolute().parent.parent):
        moved = [folder / path.relative_to(source.parent) for path in images if path.is_relative_to(source.parent)]
        if len(moved) == len(images) and moved[0].exists():
            return moved
    return images


FORMAT = Format("darknet", recognises, splits, read)

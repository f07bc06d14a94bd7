# SPDX-License-Identifier: Apache-2.0
"""KITTI 2D objects: ``image_2``, ``label_2/*.txt`` with ``type truncated occluded alpha x1 y1 x2 y2 ...``.

Geiger et al., "Are we ready for Autonomous Driving?", CVPR 2012, and the readme of its development kit. ``DontCare``
regions are ignored for every class.
"""

from __future__ import annotations

from pathlib import Path

from yolo_hw.data.items import EVERY_CLASS, DetectionDataset, Findings, Flaw, Item, Row
from yolo_hw.data.readers.format import (
    Format,
    Request,
    check_split,
    images_by_stem,
    inside,
    listed_stems,
    read_item,
    rows_of_lines,
)
from yolo_hw.errors import DataError

KITTI_NAMES = tuple("Car Van Truck Pedestrian Person_sitting Cyclist Tram Misc".split())
DONT_CARE = "DontCare"
FIELDS = (15, 16)
"""Words of a line; results have a score at the end."""


def recognises(path: Path) -> bool:
    """Return whether a folder has ``label_2`` and ``image_2``, itself or in ``training``."""
    return (_root(path) / "label_2").is_dir() and (_root(path) / "image_2").is_dir()


def splits(path: Path) -> tuple[str, ...]:
    """Return the lists in ``ImageSets``; KITTI itself has none."""
    return tuple(sorted(f.stem for f in _lists(path).glob("*.txt") if f.stem != "test"))  # the test set has no labels


def read(request: Request) -> DetectionDataset:
    """Read the labels of a list, or all of them."""
    check_split(request, splits(request.path))
    root = _root(request.path)
    images = images_by_stem(root / "image_2")
    stems = sorted(path.stem for path in (root / "label_2").glob("*.txt"))
    if request.split is not None:
        stems = list(listed_stems(_lists(request.path) / f"{request.split}.txt"))
    items = tuple(
        _item(
            images.get(stem, root / "image_2" / f"{stem}.png"),
            inside(root / "label_2", f"{stem}.txt"),
            request.findings,
        )
        for stem in stems
    )
    if not items:
        raise DataError(f"{root / 'label_2'}: no label file to read")
    return DetectionDataset(KITTI_NAMES, items, tuple(request.findings.found))


def _item(image: Path, labels: Path, findings: Findings) -> Item:
    def rows(_: tuple[int, int]) -> list[Row]:
        return rows_of_lines(labels, "labels", lambda place, line: _row(place, line, findings))

    return read_item(image, len(KITTI_NAMES), findings, rows)


def _row(place: str, line: str, findings: Findings) -> Row | None:
    words = line.split()
    try:
        if len(words) not in FIELDS:
            raise ValueError
        x1, y1, x2, y2 = (float(word) for word in words[4:8])
    except ValueError:
        findings.refuse(Flaw.MALFORMED, place, f"expected the {FIELDS[0]} fields of a KITTI label, got '{line[:60]}'")
        return None
    if words[0] == DONT_CARE:
        return Row(place, EVERY_CLASS, (x1, y1, x2, y2))
    if words[0] not in KITTI_NAMES:
        findings.refuse(Flaw.UNKNOWN_CLASS, place, f"unknown class '{words[0]}'")
        return None
    return Row(place, KITTI_NAMES.index(words[0]), (x1, y1, x2, y2))


def _root(path: Path) -> Path:
    return path / "training" if (path / "training" / "label_2").is_dir() else path


def _lists(path: Path) -> Path:
    return next((f for f in (path / "ImageSets", path.parent / "ImageSets") if f.is_dir()), path / "ImageSets")


FORMAT = Format("kitti", recognises, splits, read)

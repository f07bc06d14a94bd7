# SPDX-License-Identifier: Apache-2.0
"""VisDrone-DET: ``images``, ``annotations/*.txt`` with ``x,y,w,h,score,category,truncation,occlusion``.

Zhu et al., "Detection and Tracking Meet Drones Challenge", TPAMI 2021, and its evaluation toolkit: category 0 marks
ignored regions and 11 other objects, both ignored for every class; a score of 0 marks an object that is not evaluated.
"""

from __future__ import annotations

import re
from pathlib import Path

from yolo_hw.data.items import EVERY_CLASS, DetectionDataset, Findings, Flaw, Item, Row
from yolo_hw.data.readers.format import Format, Request, annotated_images, check_split, read_item, rows_of_lines

VISDRONE_NAMES = tuple("pedestrian people bicycle car van truck tricycle awning-tricycle bus motor".split())
IGNORED_REGION, OTHERS = 0, 11


def recognises(path: Path) -> bool:
    """Return whether a folder, or one for each split in it, has ``images`` and ``annotations/*.txt``."""
    return bool(_parts(path))


def splits(path: Path) -> tuple[str, ...]:
    """Return the names at the end of the folders ``VisDrone2019-DET-<split>``."""
    return tuple(sorted(name for name in _parts(path) if name))


def read(request: Request) -> DetectionDataset:
    """Read the annotations of one folder, or of all."""
    check_split(request, splits(request.path))
    images = annotated_images(request, dict(sorted(_parts(request.path).items())), ".txt")
    items = tuple(_item(image, labels, request.findings) for image, labels in images)
    return DetectionDataset(VISDRONE_NAMES, items, tuple(request.findings.found))


def _parts(path: Path) -> dict[str, Path]:
    """Return the folders that hold images and annotations by the name of their split."""
    if not path.is_dir():
        return {}
    if _is_part(path):
        return {"": path}
    found = {}
    for folder in sorted(path.iterdir()):
        match = re.search(r"DET-([a-z-]+)$", folder.name)
        if match and _is_part(folder):
            found[match[1]] = folder
    return found


def _is_part(path: Path) -> bool:
    return (path / "images").is_dir() and next((path / "annotations").glob("*.txt"), None) is not None


def _item(image: Path, labels: Path, findings: Findings) -> Item:
    def rows(_: tuple[int, int]) -> list[Row]:
        return rows_of_lines(labels, "annotations", lambda place, line: _row(place, line, findings))

    return read_item(image, len(VISDRONE_NAMES), findings, rows)


def _row(place: str, line: str, findings: Findings) -> Row | None:
    try:
        fields = line.strip().rstrip(",").split(",")
        x, y, w, h, score = (float(field) for field in fields[:5])
        category = int(fields[5])
    except (ValueError, IndexError):
        findings.refuse(Flaw.MALFORMED, place, f"expected 'x,y,w,h,score,category,...', got '{line[:60]}'")
        return None
    box = (x, y, x + w, y + h)
    if category in (IGNORED_REGION, OTHERS):
        return Row(place, EVERY_CLASS, box)
    if not 1 <= category <= len(VISDRONE_NAMES):
        findings.refuse(Flaw.UNKNOWN_CLASS, place, f"unknown category {category}")
        return None
    return Row(place, category - 1, box, crowd=score == 0)


FORMAT = Format("visdrone", recognises, splits, read)

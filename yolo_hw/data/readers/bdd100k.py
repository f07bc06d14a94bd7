# SPDX-License-Identifier: Apache-2.0
"""BDD100K detection json (https://doc.bdd100k.com/format.html): frames with labels that have a ``box2d``.

Names of the release of 2018 are renamed and categories outside of the ten are ignored regions of the class they belong
to, as the evaluation toolkit does; labels without a box (lanes, drivable areas) are no objects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolo_hw.data.items import DetectionDataset, Findings, Flaw, Item, Row
from yolo_hw.data.readers.format import Format, Request, check_split, inside, mentions, read_item, read_json
from yolo_hw.errors import DataError

BDD_NAMES = (
    *("pedestrian", "rider", "car", "truck", "bus"),
    *("train", "motorcycle", "bicycle", "traffic light", "traffic sign"),
)
RENAMED = {"person": "pedestrian", "motor": "motorcycle", "bike": "bicycle", "caravan": "car", "van": "car"}
IGNORED_AS = {"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"}
WHAT = "a BDD100K detection file"


def recognises(path: Path) -> bool:
    """Return whether this is such a json file, or a folder that has them."""
    if path.is_dir():
        return bool(_label_files(path))
    return path.suffix.lower() == ".json" and _is_label_file(path)


def splits(path: Path) -> tuple[str, ...]:
    """Return the names at the end of the label files, ``train`` of ``det_train.json``."""
    return tuple(sorted({_split_of(file) for file in _label_files(path)})) if path.is_dir() else ()


def read(request: Request) -> DetectionDataset:
    """Read one label file, or those of a folder."""
    check_split(request, splits(request.path))
    files = [request.path] if request.path.is_file() else _label_files(request.path)
    root = request.path if request.path.is_dir() else None
    items: list[Item] = []
    for file in files:
        if request.split in (None, _split_of(file)):
            items += _read_file(file, root, request.findings)
    return DetectionDataset(BDD_NAMES, tuple(items), tuple(request.findings.found))


def _read_file(file: Path, root: Path | None, findings: Findings) -> list[Item]:
    document = read_json(file, WHAT)
    try:
        frames = document["frames"] if isinstance(document, dict) else document
        folder = _images_folder(file, root, str(frames[0]["name"])) if frames else file.parent
        return [_item(file, inside(folder, str(frame["name"])), frame, findings) for frame in frames]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: not {WHAT}: {type(error).__name__} {error}") from None


def _images_folder(file: Path, root: Path | None, name: str) -> Path:
    """Return the folder of the images: that of the official tree, ``images`` beside the file, or the file's own."""
    above = [root] if root else list(file.absolute().parents[:3])
    split = _split_of(file)
    places = [p for base in above for p in (base / "images" / "100k" / split, base / "images" / split, base / "images")]
    return next((p for p in [*places, file.parent] if inside(p, name).exists()), file.parent)


def _item(file: Path, image: Path, frame: dict[str, Any], findings: Findings) -> Item:
    return read_item(image, len(BDD_NAMES), findings, lambda _: _rows(file, frame, findings))


def _rows(file: Path, frame: dict[str, Any], findings: Findings) -> list[Row]:
    rows = []
    for number, label in enumerate(frame.get("labels") or [], start=1):
        box = label.get("box2d")
        if box is None:
            continue
        place = f"{file}: {frame['name']}: label {number}"
        category = str(label["category"])
        ignored = category in IGNORED_AS
        name = IGNORED_AS.get(category, RENAMED.get(category, category))
        if name not in BDD_NAMES:
            findings.refuse(Flaw.UNKNOWN_CLASS, place, f"unknown category '{category}'")
            continue
        crowd = ignored or bool((label.get("attributes") or {}).get("crowd", False))
        corners = (float(box["x1"]), float(box["y1"]), float(box["x2"]), float(box["y2"]))
        rows.append(Row(place, BDD_NAMES.index(name), corners, crowd))
    return rows


def _label_files(folder: Path) -> list[Path]:
    places = (folder, folder / "labels", folder / "labels" / "det_20")
    return [file for place in places for file in sorted(place.glob("*.json")) if _is_label_file(file)]


def _is_label_file(path: Path) -> bool:
    return mentions(path, b'"box2d"', b'"category"')


def _split_of(file: Path) -> str:
    return file.stem.rpartition("_")[2]


FORMAT = Format("bdd100k", recognises, splits, read)

# SPDX-License-Identifier: Apache-2.0
"""COCO instances json (https://cocodataset.org/#format-data): boxes x, y, width, height in pixels, crowd regions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from yolo_hw.data.items import DetectionDataset, Findings, Row, make_item
from yolo_hw.data.readers.format import Format, Request, check_split, inside, mentions, read_json
from yolo_hw.errors import DataError

WHAT = "a COCO instances file"


def recognises(path: Path) -> bool:
    """Return whether this is an instances file, or a folder that has one."""
    if path.is_dir():
        return bool(_annotation_files(path))
    return path.suffix.lower() == ".json" and not _is_list(path)


def splits(path: Path) -> tuple[str, ...]:
    """Return the parts that ``instances_<split>.json`` files make."""
    if not path.is_dir():
        return ()
    found = [_split_of(file) for file in _annotation_files(path)]
    return tuple(found) if all(found) else ()


def read(request: Request) -> DetectionDataset:
    """Read an instances file, or those of a folder."""
    if not request.path.is_dir():
        check_split(request, ())
        return _read_file(request.path, request.path.parent, request.findings)
    check_split(request, splits(request.path))
    files = [f for f in _annotation_files(request.path) if request.split in (None, _split_of(f))]
    if len(files) > 1 and not splits(request.path):
        raise DataError(f"{request.path}: {len(files)} json files, name one of them")
    parts = [_read_file(file, request.path, request.findings) for file in files]
    if any(part.names != parts[0].names for part in parts):
        raise DataError(f"{request.path}: the json files have different categories, name one of them")
    items = {item.path: item for part in parts for item in part.items}
    return DetectionDataset(parts[0].names, tuple(items.values()), tuple(request.findings.found))


def read_coco(annotations: str | Path, images: str | Path, findings: Findings | None = None) -> DetectionDataset:
    """Read a COCO instances file.

    Args:
        annotations: The json file.
        images: Folder of its ``file_name`` entries.
        findings: Takes what was dropped or changed.

    Returns:
        The data set; class order is that of the category ids.

    Raises:
        DataError: The file is no COCO instances json.
    """
    annotations = Path(annotations)
    return _dataset(annotations, read_json(annotations, WHAT), [Path(images)], findings or Findings())


def _read_file(annotations: Path, root: Path, findings: Findings) -> DetectionDataset:
    """Read a file whose images lie in one of the usual places."""
    split = annotations.stem.removeprefix("instances_")
    plain = root / "images"
    usual = [plain / split, root / split, plain / _split_of(annotations), root / _split_of(annotations)]
    return _dataset(annotations, read_json(annotations, WHAT), [*usual, plain, annotations.parent, root], findings)


def _dataset(annotations: Path, document: Any, folders: list[Path], findings: Findings) -> DetectionDataset:  # noqa: ANN401
    try:
        categories = sorted(document["categories"], key=lambda c: int(c["id"]))
        class_of = {int(c["id"]): i for i, c in enumerate(categories)}
        by_image: dict[int, list[dict[str, Any]]] = {int(image["id"]): [] for image in document["images"]}
        for number, annotation in enumerate(document["annotations"]):
            by_image[int(annotation["image_id"])].append({"id": f"number {number}", **annotation})
        folder = _images_folder(document["images"], folders)
        items = tuple(
            _item(annotations, inside(folder, str(image["file_name"])), image, by_image[int(image["id"])], class_of)
            for image in document["images"]
        )
        checked = tuple(make_item(path, size, rows, len(class_of), findings) for path, size, rows in items)
        return DetectionDataset(tuple(str(c["name"]) for c in categories), checked, tuple(findings.found))
    except (ValueError, KeyError, TypeError, RecursionError, DataError) as error:
        reason = error if isinstance(error, DataError) else f"{type(error).__name__} {error}"
        raise DataError(f"{annotations}: not {WHAT}: {reason}") from None


def _images_folder(images: list[dict[str, Any]], folders: list[Path]) -> Path:
    """Return the first folder that holds the first image, else the first one that exists."""
    existing = [folder for folder in folders if folder.is_dir()] or folders[-1:]
    names = [str(image["file_name"]) for image in images[:1]]
    return next((f for f in existing if all(inside(f, name).exists() for name in names)), existing[0])


def _item(
    annotations: Path, path: Path, image: dict[str, Any], entries: list[dict[str, Any]], class_of: dict[int, int]
) -> tuple[Path, tuple[int, int], list[Row]]:
    rows = []
    for entry in entries:
        x, y, w, h = (float(v) for v in entry["bbox"])
        rows.append(
            Row(
                f"{annotations}: annotation {entry['id']}",
                class_of[int(entry["category_id"])],
                (x, y, x + w, y + h),
                bool(entry.get("iscrowd", 0)),
                bool(entry.get("difficult", 0)),
                float(entry["area"]) if "area" in entry else None,
            )
        )
    return path, (int(image["height"]), int(image["width"])), rows


def _annotation_files(folder: Path) -> list[Path]:
    """Return the instances files of a folder or of its ``annotations`` folder."""
    for place in (folder, folder / "annotations"):
        found = [f for f in sorted(place.glob("*.json")) if not _is_list(f) and mentions(f, b'"categories"')]
        instances = [f for f in found if f.stem.startswith("instances")]
        if instances or found:
            return instances or found
    return []


def _split_of(annotations: Path) -> str:
    """Return ``train`` for ``instances_train2017.json``, nothing for ``instances.json``."""
    match = re.fullmatch(r"instances_([a-z_-]+)\d*", annotations.stem)
    return match[1] if match else ""


def _is_list(path: Path) -> bool:
    """Return whether a json file starts with a list, as those of BDD100K do."""
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip().startswith(b"[")
    except OSError:
        return False


FORMAT = Format("coco", recognises, splits, read)

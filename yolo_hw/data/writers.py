# SPDX-License-Identifier: Apache-2.0
"""Writing a data set as YOLO text, COCO json or Pascal VOC, with its images and splits."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import yaml

from yolo_hw.atomic import atomic_folder
from yolo_hw.data.dataset import open_dataset, splits_of
from yolo_hw.data.items import DetectionDataset, Item
from yolo_hw.data.readers.darknet import SPLIT_KEYS
from yolo_hw.errors import DataError

USUAL_SPLITS = ("train", "val", "test")
WHOLE = "all"
"""Name of the only part of a source without splits."""

CLASSES = "classes.names"


class Target(str, Enum):
    """Formats that are written."""

    YOLO = "yolo"
    """``images``, ``labels``, a list per split, ``data.yaml`` of ultralytics and ``set.data`` of darknet."""
    COCO = "coco"
    """``images``, ``instances_<split>.json``."""
    VOC = "voc"
    """``JPEGImages``, ``Annotations``, ``ImageSets/Main/<split>.txt``."""


def open_parts(
    source: str | Path,
    names: Sequence[str] | None = None,
    format: str | None = None,
    splits: Sequence[str] = (),
) -> dict[str, DetectionDataset]:
    """Open the splits of a source: those given, else train, val and test if it has them, else all, else the whole."""
    there = splits_of(source, format)
    chosen = list(splits) or [split for split in USUAL_SPLITS if split in there] or list(there)
    if not chosen:
        return {WHOLE: open_dataset(source, names, format=format)}
    return {split: open_dataset(source, names, split=split, format=format) for split in chosen}


def write_dataset_as(
    target: Target, parts: Mapping[str, DetectionDataset], folder: str | Path, *, link: bool = False
) -> list[str]:
    """Write a data set.

    Args:
        target: The format.
        parts: Data sets by the name of their split, all with the same classes.
        folder: Where to; appears complete or not at all, and takes the place of an older one.
        link: Make symbolic links to the images instead of copies.

    Returns:
        Remarks on what the format cannot express.

    Raises:
        DataError: The parts differ in their classes, or an image is missing.
        OutputError: `folder` holds other things.
    """
    if len({part.names for part in parts.values()}) != 1:
        raise DataError("all parts of a data set must have the same classes")
    items = {item.path: item for part in parts.values() for item in part.items}
    stems = unique_stems(list(items))
    files = {path: f"{stem}{path.suffix.lower()}" for path, stem in stems.items()}
    write = {Target.YOLO: _write_yolo, Target.COCO: _write_coco, Target.VOC: _write_voc}[target]
    with atomic_folder(folder, marker=CLASSES) as root:
        images = root / ("JPEGImages" if target is Target.VOC else "images")
        images.mkdir()
        for path, name in files.items():
            _place_image(path, images / name, link)
        names = next(iter(parts.values())).names
        (root / CLASSES).write_text("".join(f"{name}\n" for name in names), "utf-8")
        write(root, parts, files)
    crowds = sum(int(item.crowd.sum()) for item in items.values())
    if crowds and target is not Target.COCO:
        return [f"{crowds} ignored regions are left out: {target.value} labels cannot express them"]
    return []


def unique_stems(paths: Sequence[Path]) -> dict[Path, str]:
    """Return a file name without suffix for every image: its own, with as many of its folders as tell them apart."""
    depth = 1
    while True:
        stems = {path: "_".join(path.with_suffix("").parts[-depth:]).replace("/", "") for path in paths}
        if len(set(stems.values())) == len(paths):
            return stems
        depth += 1
        if depth > max(len(path.parts) for path in paths):
            repeated = [stem for stem, count in Counter(stems.values()).items() if count > 1]
            raise DataError(f"two images differ in their suffix only: {repeated[0]}")


def yolo_line(label: int, box: Sequence[float], size: tuple[int, int]) -> str:
    """Return ``class cx cy w h`` of a box x1, y1, x2, y2 in pixels of an image of (height, width)."""
    (x1, y1, x2, y2), (height, width) = box, size
    return (
        f"{label} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} "
        f"{(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f}\n"
    )


def coco_document(description: str, names: Sequence[str]) -> dict[str, Any]:
    """Return an empty COCO document; categories are numbered from 1."""
    return {
        "info": {"description": description},
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
    }


def append_coco(document: dict[str, Any], name: str, item: Item) -> None:
    """Add an image and its objects to a COCO document."""
    height, width = item.size
    image_id = len(document["images"]) + 1
    document["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
    rows = zip(item.labels, item.boxes, item.areas, item.crowd, item.difficult, strict=True)
    for label, (x1, y1, x2, y2), area, crowd, difficult in rows:
        entry = {
            "id": len(document["annotations"]) + 1,
            "image_id": image_id,
            "category_id": int(label) + 1,
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "area": float(area),
            "iscrowd": int(crowd),
        }
        document["annotations"].append({**entry, "difficult": 1} if difficult else entry)


def _place_image(path: Path, place: Path, link: bool) -> None:
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such image")
        if link:
            place.symlink_to(path.resolve())
        else:
            shutil.copyfile(path, place)
    except OSError as error:
        raise DataError(f"{path}: cannot copy the image: {error.strerror}") from None


def _write_yolo(root: Path, parts: Mapping[str, DetectionDataset], files: Mapping[Path, str]) -> None:
    (root / "labels").mkdir()
    for split, part in parts.items():
        for item in part.items:
            rows = zip(item.labels[~item.crowd], item.boxes[~item.crowd], strict=True)
            lines = "".join(yolo_line(int(label), box.tolist(), item.size) for label, box in rows)
            (root / "labels" / Path(files[item.path]).with_suffix(".txt")).write_text(lines, "utf-8")
        listed = "".join(f"./images/{files[item.path]}\n" for item in part.items)
        (root / f"{split}.txt").write_text(listed, "utf-8")
    names = list(next(iter(parts.values())).names)
    lists = {split: f"{split}.txt" for split in parts}
    if WHOLE in lists:  # both are needed by those who read the file
        lists = {"train": lists[WHOLE], "val": lists[WHOLE]}
    document = {**lists, "nc": len(names), "names": dict(enumerate(names))}
    (root / "data.yaml").write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), "utf-8")
    keys = "".join(f"{SPLIT_KEYS.get(split, split)} = {file}\n" for split, file in lists.items())
    (root / "set.data").write_text(f"classes = {len(names)}\n{keys}names = {CLASSES}\n", "utf-8")


def _write_coco(root: Path, parts: Mapping[str, DetectionDataset], files: Mapping[Path, str]) -> None:
    for split, part in parts.items():
        document = coco_document("written by yolo_hw", part.names)
        for item in part.items:
            append_coco(document, files[item.path], item)
        name = "instances.json" if split == WHOLE else f"instances_{split}.json"
        (root / name).write_text(json.dumps(document), "utf-8")


def _write_voc(root: Path, parts: Mapping[str, DetectionDataset], files: Mapping[Path, str]) -> None:
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, part in parts.items():
        for item in part.items:
            tree = ElementTree(_voc_annotation(item, files[item.path], part.names))
            indent(tree)
            tree.write(root / "Annotations" / Path(files[item.path]).with_suffix(".xml"), "utf-8")
        if split != WHOLE:
            listed = "".join(f"{Path(files[item.path]).stem}\n" for item in part.items)
            (root / "ImageSets" / "Main" / f"{split}.txt").write_text(listed, "utf-8")


def _voc_annotation(item: Item, name: str, names: Sequence[str]) -> Element:
    """Return the element; corners are whole pixels from 1, the last one included."""
    root = Element("annotation")
    SubElement(root, "filename").text = name
    size = SubElement(root, "size")
    for key, value in (("width", item.size[1]), ("height", item.size[0]), ("depth", 3)):
        SubElement(size, key).text = str(value)
    rows = zip(item.labels, item.boxes, item.difficult, item.crowd, strict=True)
    for label, box, difficult, crowd in rows:
        if crowd:
            continue
        entry = SubElement(root, "object")
        SubElement(entry, "name").text = names[int(label)]
        SubElement(entry, "difficult").text = str(int(difficult))
        corners = SubElement(entry, "bndbox")
        x1, y1, x2, y2 = (round(value) for value in box.tolist())
        x1, y1 = max(x1, 0) + 1, max(y1, 0) + 1
        x2, y2 = max(min(x2, item.size[1]), x1), max(min(y2, item.size[0]), y1)
        if (x1, y1) == (x2, y2):  # a single pixel would be read as a slip of the hand
            x2 += 1
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), (x1, y1, x2, y2), strict=True):
            SubElement(corners, key).text = str(value)
    return root

# SPDX-License-Identifier: Apache-2.0
"""A small data set written in every format that is read: two pictures, their objects, and what must come of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 100, 60


@dataclass(frozen=True)
class Sample:
    """A data set on disk.

    Attributes:
        source: What to open.
        boxes: Of the two images, "a" and "b", in pixels; regions that are ignored for all classes are not among them.
        names: The class names of those boxes.
        splits: The parts it has; the first image is in "train", the second in "val".
        ignored: Regions of image "a" that are ignored for all classes.
    """

    source: Path
    boxes: tuple[list[list[float]], list[list[float]]]
    names: tuple[list[str], list[str]]
    splits: tuple[str, ...] = ()
    ignored: tuple[tuple[float, ...], ...] = ()


def picture(path: Path, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """Write an image of noise, another one for each path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(str(path).encode())).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def text(path: Path, content: str) -> Path:
    """Write a text file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")
    return path


BOXES = ([[10.0, 6.0, 30.0, 36.0], [50.0, 0.0, 100.0, 60.0]], [[20.0, 12.0, 40.0, 24.0]])


def write_yolo_labels(root: Path, classes: tuple[list[int], list[int]] = ([0, 1], [1])) -> None:
    """Write ``images/<split>/*.png`` and ``labels/<split>/*.txt``."""
    for split, stem, boxes, labels in zip(("train", "val"), "ab", BOXES, classes, strict=True):
        picture(root / "images" / split / f"{stem}.png")
        lines = [
            f"{label} {(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} {(x2 - x1) / WIDTH} {(y2 - y1) / HEIGHT}\n"
            for label, (x1, y1, x2, y2) in zip(labels, boxes, strict=True)
        ]
        text(root / "labels" / split / f"{stem}.txt", "".join(lines))


def yolo(root: Path) -> Sample:
    write_yolo_labels(root)
    text(root / "set.names", "cat\ndog\n")
    return Sample(root, BOXES, (["cat", "dog"], ["dog"]), ("train", "val"))


def darknet(root: Path) -> Sample:
    write_yolo_labels(root / "data")
    text(root / "data/set.names", "cat\ndog\n")
    text(root / "data/train.txt", "data/images/train/a.png\n")
    text(root / "data/val.txt", str((root / "data/images/val/b.png").absolute()))
    lines = (
        "classes= 2\n# comment\ntrain  = data/train.txt\nvalid=data/val.txt\nnames = data/set.names\nbackup = backup\n"
    )
    return Sample(text(root / "cfg/set.data", lines), BOXES, (["cat", "dog"], ["dog"]), ("train", "val"))


def ultralytics(root: Path) -> Sample:
    write_yolo_labels(root / "set")
    text(root / "set/val.txt", "./images/val/b.png\n")
    lines = "path: set\ntrain: images/train\nval:\n  - val.txt\ntest:  # none\nnames:\n  0: cat\n  1: dog\n"
    return Sample(text(root / "data.yaml", lines).parent, BOXES, (["cat", "dog"], ["dog"]), ("train", "val"))


def coco(root: Path) -> Sample:
    categories = [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}]
    for split, stem, boxes, labels in zip(("train", "val"), "ab", BOXES, ([2, 9], [9]), strict=True):
        picture(root / f"{split}2017" / f"{stem}.png")
        annotations = [
            {"id": i, "image_id": 7, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": 5.0 + i}
            for i, (label, (x1, y1, x2, y2)) in enumerate(zip(labels, boxes, strict=True))
        ]
        images = [{"id": 7, "file_name": f"{stem}.png", "width": WIDTH, "height": HEIGHT}]
        document = {"images": images, "categories": categories, "annotations": annotations}
        text(root / f"annotations/instances_{split}2017.json", json.dumps(document))
        text(root / f"annotations/captions_{split}2017.json", "{}")
    return Sample(root, BOXES, (["cat", "dog"], ["dog"]), ("train", "val"))


def voc_annotation(boxes: list[list[float]], names: list[str], size: bool = True) -> str:
    """Return the xml of boxes with integer corners; the second object is difficult."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>{int(i == 1)}</difficult><part><name>head</name></part><bndbox>"
        f"<xmin>{x1 + 1:g}</xmin><ymin>{y1 + 1:g}</ymin><xmax>{x2:g}</xmax><ymax>{y2:g}</ymax></bndbox></object>"
        for i, (name, (x1, y1, x2, y2)) in enumerate(zip(names, boxes, strict=True))
    )
    shape = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>whatever.jpg</filename>{shape}{objects}</annotation>"


def voc(root: Path) -> Sample:
    for split, stem, boxes, names in zip(("train", "val"), "ab", BOXES, (["zebra", "ant"], ["ant"]), strict=True):
        picture(root / "JPEGImages" / f"{stem}.png")
        text(root / "Annotations" / f"{stem}.xml", voc_annotation(boxes, names, size=stem == "a"))
        text(root / "ImageSets/Main" / f"{split}.txt", f"{stem} -1\n")
    return Sample(root, BOXES, (["zebra", "ant"], ["ant"]), ("train", "val"))


def dior(root: Path) -> Sample:
    for split, stem, folder, names in (("train", "a", "trainval", ["ship", "dam"]), ("val", "b", "test", ["windmill"])):
        picture(root / f"JPEGImages-{folder}" / f"{stem}.jpg")
        annotation = voc_annotation(BOXES["ab".index(stem)], names)
        text(root / "Annotations/Horizontal Bounding Boxes" / f"{stem}.xml", annotation)
        text(root / "Main" / f"{split}.txt", f"{stem}\n")
    return Sample(root, BOXES, (["ship", "dam"], ["windmill"]), ("train", "val"))


def kitti(root: Path) -> Sample:
    for split, stem, boxes, names in zip(("train", "val"), "ab", BOXES, (["Van", "Car"], ["Tram"]), strict=True):
        picture(root / "training/image_2" / f"{stem}.png")
        lines = [
            f"{name} 0.00 0 -1.57 {x1:.2f} {y1:.2f} {x2:.2f} {y2:.2f} 1.5 1.6 4.1 2.0 1.7 30.0 -1.6\n"
            for name, (x1, y1, x2, y2) in zip(names, boxes, strict=True)
        ]
        if stem == "a":
            lines.append("DontCare -1 -1 -10 70.00 10.00 80.00 20.00 -1 -1 -1 -1000 -1000 -1000 -10\n")
        text(root / "training/label_2" / f"{stem}.txt", "".join(lines))
        text(root / "ImageSets" / f"{split}.txt", f"{stem}\n")
    return Sample(root, BOXES, (["Van", "Car"], ["Tram"]), ("train", "val"), ((70, 10, 80, 20),))


def visdrone(root: Path) -> Sample:
    for split, stem, boxes, labels in zip(("train", "val"), "ab", BOXES, ([1, 4], [10]), strict=True):
        part = root / f"VisDrone2019-DET-{split}"
        picture(part / "images" / f"{stem}.jpg")
        lines = [
            f"{x1:g},{y1:g},{x2 - x1:g},{y2 - y1:g},1,{label},0,0{',' if label == 4 else ''}\n"
            for label, (x1, y1, x2, y2) in zip(labels, boxes, strict=True)
        ]
        if stem == "a":
            lines += ["70,10,10,10,0,0,0,0\n", "40,40,5,5,1,11,0,0\n"]
        text(part / "annotations" / f"{stem}.txt", "".join(lines))
    names = (["pedestrian", "car"], ["motor"])
    return Sample(root, BOXES, names, ("train", "val"), ((70, 10, 80, 20), (40, 40, 45, 45)))


def bdd100k(root: Path) -> Sample:
    for split, stem, boxes, names in zip(("train", "val"), "ab", BOXES, (["person", "car"], ["motor"]), strict=True):
        picture(root / "images/100k" / split / f"{stem}.jpg")
        labels: list[dict[str, object]] = [
            {"category": name, "attributes": {"crowd": False}, "box2d": {"x1": x1, "y1": y1, "x2": x2, "y2": y2}}
            for name, (x1, y1, x2, y2) in zip(names, boxes, strict=True)
        ]
        labels.append({"category": "drivable area", "poly2d": []})
        text(root / f"labels/det_20/det_{split}.json", json.dumps([{"name": f"{stem}.jpg", "labels": labels}]))
    return Sample(root, BOXES, (["pedestrian", "car"], ["motorcycle"]), ("train", "val"))


def hand(root: Path) -> Sample:
    from scipy.io import savemat

    for split, stem, boxes in zip(("training", "validation"), "ab", BOXES, strict=True):
        part = root / f"{split}_dataset/{split}_data"
        picture(part / "images" / f"{stem}.jpg")
        cells = np.empty((1, len(boxes)), object)
        for i, (x1, y1, x2, y2) in enumerate(boxes):
            corners = {"a": [y1 + 1, x1 + 1], "b": [y1 + 1, x2], "c": [y2, x2], "d": [y2, x1 + 1]}
            cells[0, i] = {key: np.array([corner], float) for key, corner in corners.items()}
        (part / "annotations").mkdir()
        savemat(part / "annotations" / f"{stem}.mat", {"boxes": cells})
    return Sample(root, BOXES, (["hand", "hand"], ["hand"]), ("train", "val"))


SAMPLES: dict[str, Callable[[Path], Sample]] = {
    function.__name__: function
    for function in (yolo, darknet, ultralytics, coco, voc, dior, kitti, visdrone, bdd100k, hand)
}
"""Format -> function that writes the data set to a folder."""

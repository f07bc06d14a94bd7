# SPDX-License-Identifier: Apache-2.0
"""DIOR: Pascal VOC annotations of aerial images, with folders of its own and 20 classes.

Li et al., "Object detection in optical remote sensing images: A survey and a new benchmark", ISPRS 2020.
"""

from __future__ import annotations

from pathlib import Path

from yolo_hw.data.items import DetectionDataset
from yolo_hw.data.readers.format import Format, Request, check_split, images_by_stem, inside, listed_stems
from yolo_hw.data.readers.voc_xml import voc_item
from yolo_hw.errors import DataError

DIOR_NAMES = tuple(
    "airplane airport baseballfield basketballcourt bridge chimney dam Expressway-Service-area "
    "Expressway-toll-station golffield groundtrackfield harbor overpass ship stadium storagetank tenniscourt "
    "trainstation vehicle windmill".split()
)
IMAGE_FOLDERS = ("JPEGImages-trainval", "JPEGImages-test")


def recognises(path: Path) -> bool:
    """Return whether a folder has DIOR's image folders and annotations."""
    return any((path / name).is_dir() for name in IMAGE_FOLDERS) and (path / "Annotations").is_dir()


def splits(path: Path) -> tuple[str, ...]:
    """Return the lists in ``ImageSets/Main`` or ``Main``."""
    return tuple(sorted(file.stem for file in _lists(path).glob("*.txt")))


def read(request: Request) -> DetectionDataset:
    """Read the annotations of a list, or all of them."""
    root = request.path
    check_split(request, splits(root))
    annotations = root / "Annotations" / "Horizontal Bounding Boxes"
    annotations = annotations if annotations.is_dir() else root / "Annotations"
    images = {stem: path for name in IMAGE_FOLDERS for stem, path in images_by_stem(root / name).items()}
    if request.split is None:
        stems = sorted(path.stem for path in annotations.glob("*.xml"))
    else:
        stems = list(listed_stems(_lists(root) / f"{request.split}.txt"))
    items = tuple(
        voc_item(
            images.get(stem, root / IMAGE_FOLDERS[0] / f"{stem}.jpg"),
            inside(annotations, f"{stem}.xml"),
            DIOR_NAMES,
            request.findings,
        )
        for stem in stems
    )
    if not items:
        raise DataError(f"{root}: no annotation to read")
    return DetectionDataset(DIOR_NAMES, items, tuple(request.findings.found))


def _lists(root: Path) -> Path:
    return next((f for f in (root / "ImageSets" / "Main", root / "Main") if f.is_dir()), root / "ImageSets")


FORMAT = Format("dior", recognises, splits, read)

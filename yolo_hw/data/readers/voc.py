# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC: ``Annotations/*.xml``, ``JPEGImages``, lists in ``ImageSets/Main``.

Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2010, and its development kit.
"""

from __future__ import annotations

from pathlib import Path

from yolo_hw.data.items import DetectionDataset
from yolo_hw.data.readers.format import Format, Request, check_split, images_by_stem, inside, listed_stems
from yolo_hw.data.readers.voc_xml import read_objects, voc_item
from yolo_hw.errors import DataError

VOC_NAMES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor".split()
)
"""The classes of the challenge; a set that uses others has its own, in alphabetical order."""


def recognises(path: Path) -> bool:
    """Return whether a folder has xml files in ``Annotations`` and images in ``JPEGImages``."""
    return (path / "JPEGImages").is_dir() and next((path / "Annotations").glob("*.xml"), None) is not None


def splits(path: Path) -> tuple[str, ...]:
    """Return the lists in ``ImageSets/Main``."""
    return tuple(sorted(file.stem for file in (path / "ImageSets" / "Main").glob("*.txt")))


def read(request: Request) -> DetectionDataset:
    """Read the annotations of a list, or all of them."""
    check_split(request, splits(request.path))
    annotations = request.path / "Annotations"
    if request.split is None:
        stems = sorted(path.stem for path in annotations.glob("*.xml"))
    else:
        stems = list(listed_stems(request.path / "ImageSets" / "Main" / f"{request.split}.txt"))
    names = class_names(annotations)
    images = images_by_stem(request.path / "JPEGImages")
    items = []
    for stem in stems:
        file = inside(annotations, f"{stem}.xml")
        image = images.get(stem, request.path / "JPEGImages" / f"{stem}.jpg")
        items.append(voc_item(image, file, names, request.findings))
    if not items:
        raise DataError(f"{request.path}: no annotation to read")
    return DetectionDataset(names, tuple(items), tuple(request.findings.found))


def class_names(annotations: Path) -> tuple[str, ...]:
    """Return the class names of a folder of annotations: of all of them, so that every split has the same classes."""
    used: set[str] = set()
    for path in annotations.glob("*.xml"):
        try:
            used.update(entry.name for entry in read_objects(path)[1])
        except DataError:
            continue  # named when, and if, the file itself is read
    return VOC_NAMES if used <= set(VOC_NAMES) else tuple(sorted(used))


FORMAT = Format("voc", recognises, splits, read)

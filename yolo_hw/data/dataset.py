# SPDX-License-Identifier: Apache-2.0
"""Detection data sets in memory, opened by what lies at a path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yolo_hw.data.image import find_images
from yolo_hw.data.items import DetectionDataset, Finding, Findings, Flaw, Item
from yolo_hw.data.readers import FORMATS, Format, Request
from yolo_hw.data.readers.coco import read_coco
from yolo_hw.data.readers.yolo import label_path, read_names, read_yolo
from yolo_hw.errors import DataError, nearest

__all__ = [
    "DetectionDataset",
    "Finding",
    "Flaw",
    "Item",
    "find_format",
    "label_path",
    "open_dataset",
    "read_coco",
    "read_names",
    "read_yolo",
    "splits_of",
]


def open_dataset(
    source: str | Path,
    names: Sequence[str] | None = None,
    *,
    split: str | None = None,
    usual_split: str | None = None,
    format: str | None = None,
    strict: bool = True,
) -> DetectionDataset:
    """Open a data set by what lies at `source`.

    Args:
        source: A file or folder of one of `yolo_hw.data.readers.FORMATS`: COCO json, a ``data.yaml`` of ultralytics, a
            darknet ``.data`` file, a list or folder of images with YOLO text labels, the folders of Pascal VOC, KITTI,
            BDD100K, VisDrone, DIOR and the Oxford hand set.
        names: Class names for YOLO labels that come without; all other formats bring their own.
        split: One of `splits_of`, or a list file (``.txt``) that names the images to keep; None for all images.
        usual_split: Taken where `split` is None and the source has a part of this name.
        format: Name of the format, where the source could be several.
        strict: Raise on entries that have no meaning; else they are dropped and become findings.

    Returns:
        The data set; images are not decoded yet.

    Raises:
        DataError: Nothing readable there, or an entry without meaning.
    """
    source = Path(source)
    kind = find_format(source, format)
    if split is None and usual_split is not None and usual_split in kind.splits(source):
        split = usual_split
    listed = Path(split) if split is not None and split.endswith(".txt") else None
    request = Request(
        source, None if names is None else tuple(names), None if listed else split, Findings(strict=strict)
    )
    dataset = kind.read(request)
    return dataset if listed is None else _only_listed(dataset, source, listed)


def splits_of(source: str | Path, format: str | None = None) -> tuple[str, ...]:
    """Return the parts that a source has, such as train and val; empty where it is one whole."""
    return find_format(Path(source), format).splits(Path(source))


def find_format(source: Path, name: str | None = None) -> Format:
    """Return the format called `name`, or the first one that recognises the source.

    Raises:
        DataError: There is no such format, or nothing that any of them reads.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if name is not None:
        known = {format.name: format for format in FORMATS}
        if name not in known:
            raise DataError(f"no format '{name}'; there are {', '.join(known)}{nearest(name, known)}")
        return known[name]
    for format in FORMATS:
        if format.recognises(source):
            return format
    raise DataError(f"{source}: not a data set of a known format ({', '.join(f.name for f in FORMATS)})")


def _only_listed(dataset: DetectionDataset, source: Path, listed: Path) -> DetectionDataset:
    by_path = {item.path.resolve(): item for item in dataset.items}
    wanted = [path.resolve() for path in find_images(listed)]
    missing = [path for path in wanted if path not in by_path]
    if missing:
        raise DataError(f"{listed}: {missing[0]} is no image of {source} ({len(missing)} of {len(wanted)} are none)")
    return DetectionDataset(dataset.names, tuple(by_path[path] for path in wanted), dataset.findings)

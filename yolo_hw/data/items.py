# SPDX-License-Identifier: Apache-2.0
"""What every reader produces: images with boxes, and findings about entries that cannot be used as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from yolo_hw.errors import DataError

EVERY_CLASS = -1
"""Label of a region that is ignored for all classes; `make_item` turns it into one crowd box per class."""

TOLERANCE_PX = 1.0
"""How far a box may reach out of its image: formats round, and some count pixels from 1."""


class Flaw(str, Enum):
    """Kinds of entries that cannot be used as they are."""

    MALFORMED = "malformed entry"
    UNKNOWN_CLASS = "unknown class"
    NOT_FINITE = "box not finite"
    NO_AREA = "box without area"
    OUTSIDE = "box outside of its image"
    CLIPPED = "box beyond the edge of its image"
    BAD_IMAGE = "unreadable image"
    WRONG_SIZE = "size differs from the image"
    SAME_BOX = "box given twice"
    SAME_IMAGE = "image given twice"


@dataclass(frozen=True)
class Finding:
    """One entry that was dropped or changed, or that is suspect.

    Attributes:
        flaw: The kind.
        place: File and line, or file and number of the object.
        message: What was found and what was done.
    """

    flaw: Flaw
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class Findings:
    """Collects findings while a data set is read."""

    def __init__(self, *, strict: bool = True) -> None:
        """Start empty; `strict` makes entries that have no meaning an error instead of a finding."""
        self.found: list[Finding] = []
        self.strict = strict

    def add(self, flaw: Flaw, place: str, message: str) -> None:
        """Note an entry that was dropped or changed."""
        self.found.append(Finding(flaw, place, message))

    def refuse(self, flaw: Flaw, place: str, message: str) -> None:
        """Note an entry without a meaning, which is dropped.

        Raises:
            DataError: The collector is strict.
        """
        if self.strict:
            raise DataError(f"{place}: {message}")
        self.add(flaw, place, f"{message}; dropped")


@dataclass(frozen=True)
class Item:
    """One image with its ground truth.

    Attributes:
        path: The image file.
        size: (height, width) in pixels.
        boxes: [B, 4] float64 x1, y1, x2, y2 in pixels.
        labels: [B] int64, index into the data set's names.
        crowd: [B] bool, COCO's iscrowd: regions where detections are neither right nor wrong.
        areas: [B] float64, area of the object in pixels (of its mask if the source knows one).
        difficult: [B] bool, Pascal VOC's flag: objects that VOC AP does not count.
    """

    path: Path
    size: tuple[int, int]
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float64]
    difficult: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __post_init__(self) -> None:
        """Nothing is difficult unless the source says so."""
        if len(self.difficult) == 0:
            object.__setattr__(self, "difficult", np.zeros(len(self.boxes), np.bool_))


@dataclass(frozen=True)
class DetectionDataset:
    """Images with boxes.

    Attributes:
        names: Class names.
        items: The images.
        findings: Entries of the source that were dropped or changed.
    """

    names: tuple[str, ...]
    items: tuple[Item, ...]
    findings: tuple[Finding, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.items)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The findings, one message each."""
        return tuple(str(finding) for finding in self.findings)


@dataclass(frozen=True)
class Row:
    """One entry of a label file, not yet checked.

    Attributes:
        place: Where it stands, for messages.
        label: Class, or `EVERY_CLASS`.
        box: x1, y1, x2, y2 in pixels.
        crowd: Region to ignore.
        difficult: Pascal VOC's flag.
        area: In pixels, if the source says more than the box does.
    """

    place: str
    label: int
    box: tuple[float, float, float, float]
    crowd: bool = False
    difficult: bool = False
    area: float | None = None


def make_item(path: Path, size: tuple[int, int], rows: Sequence[Row], classes: int, findings: Findings) -> Item:
    """Check the entries of an image and gather them.

    A box that is not finite, has no area or lies outside is dropped, one that reaches out by more than `TOLERANCE_PX`
    is clipped; both become findings.

    Args:
        path: The image file.
        size: Its (height, width) in pixels.
        rows: The entries.
        classes: Number of classes.
        findings: Takes the findings.

    Returns:
        The item.
    """
    kept: list[Row] = []
    for row in rows:
        checked = _checked(row, size, findings)
        if checked is None:
            continue
        if row.label == EVERY_CLASS:
            kept += [Row(row.place, label, checked, True, row.difficult, row.area) for label in range(classes)]
        else:
            kept.append(row if checked == row.box else replace(row, box=checked))
    boxes = np.array([row.box for row in kept], np.float64).reshape(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    given = [area if row.area is None else row.area for row, area in zip(kept, areas.tolist(), strict=True)]
    return Item(
        path,
        size,
        boxes,
        np.array([row.label for row in kept], np.int64),
        np.array([row.crowd for row in kept], np.bool_),
        np.array(given, np.float64),
        np.array([row.difficult for row in kept], np.bool_),
    )


def _checked(row: Row, size: tuple[int, int], findings: Findings) -> tuple[float, float, float, float] | None:
    """Return the box to use, or None where there is none."""
    x1, y1, x2, y2 = row.box
    height, width = size
    if x1 >= 0 and y1 >= 0 and x1 < x2 <= width and y1 < y2 <= height:  # what most boxes are; not so for NaN
        return row.box
    text = f"({x1:g}, {y1:g}, {x2:g}, {y2:g})"
    if not np.isfinite(row.box).all():
        findings.add(Flaw.NOT_FINITE, row.place, f"box {text} is not finite: dropped")
        return None
    if x2 <= x1 or y2 <= y1:
        findings.add(Flaw.NO_AREA, row.place, "box without area dropped")
        return None
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        findings.add(Flaw.OUTSIDE, row.place, f"box {text} lies outside of the {width}x{height} image: dropped")
        return None
    if max(-x1, -y1, x2 - width, y2 - height) > TOLERANCE_PX:
        findings.add(Flaw.CLIPPED, row.place, f"box {text} reaches out of the {width}x{height} image: clipped")
        return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    return row.box
